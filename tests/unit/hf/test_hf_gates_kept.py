"""Gates that cannot be lost: parts and wholes, a user's own module, adapters, configurations that models
share.
"""

from __future__ import annotations

import copy
import pickle

from hf_models import batch_of, tiny_model  # first: see hf_models  isort: skip

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertModel

from dsp_plugin.gating import FixedGates, HandshakeError, RelaxedSubset, constant_temperature
from dsp_plugin.hf import gate_heads, head_map_of, prune_heads, switchboard_of, ungate_heads
from dsp_plugin.hf.heads.gating import boards_of
from dsp_plugin.hf.heads.heads_link import LINK

IDS = torch.arange(3, 11)[None]
KEEP = torch.tensor([True, False, False, True, True, True, False, True])


def config(**more):
    return BertConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        initializer_range=0.3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **more,
    )


class Pair(nn.Module):
    """Two sentences, one encoder or two, mean pooling, and a head of its own."""

    def __init__(self, encoders=1, shared=None):
        super().__init__()
        given = shared or config()
        self.encoders = nn.ModuleList([BertModel(given, add_pooling_layer=False) for _ in range(encoders)])
        self.head = nn.Linear(64, 2)

    def forward(self, one, two):
        pooled = [
            self.encoders[i % len(self.encoders)](ids).last_hidden_state.mean(1)
            for i, ids in enumerate((one, two))
        ]
        return self.head(torch.cat(pooled, -1))


def relaxed(model, k=4):
    return RelaxedSubset(head_map_of(model), k, constant_temperature(1.0))


def closed_by_hand(model, keep):
    """A stock copy with zeros in the columns of the heads that are not kept."""
    twin = copy.deepcopy(model)
    layers = [m for m in twin.modules() if type(m).__name__ == "BertSelfOutput"]
    with torch.no_grad():
        for layer, flags in zip(layers, keep.view(-1, 4)):
            layer.dense.weight.view(32, 4, 8)[:, ~flags] = 0
    return twin


@pytest.mark.parametrize("encoders", [1, 2])
def test_a_module_of_a_users_own(encoders):
    torch.manual_seed(0)
    model = Pair(encoders).eval()
    keep = KEEP.repeat(encoders)
    expected = closed_by_hand(model, keep)(IDS, IDS.flip(1))
    assert [block.name for block in head_map_of(model).blocks][:2] == [
        f"encoders.0.encoder.layer.{n}.attention" for n in (0, 1)
    ]
    gate_heads(model, FixedGates(keep))
    torch.testing.assert_close(model(IDS, IDS.flip(1)), expected, rtol=0, atol=1e-5)
    ungate_heads(model)
    assert not boards_of(model) and not any(
        module._forward_pre_hooks or module._forward_hooks for module in model.modules()
    )


def test_one_draw_serves_both_calls_of_one_forward_and_all_weights_learn():
    torch.manual_seed(0)
    model = Pair()
    board = gate_heads(model, relaxed(model))
    drawn, sample = [], board.gates.sample
    board.gates.sample = lambda: drawn.append(1) or sample()
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [weight.detach().clone() for weight in (board.gates.scores, model.head.weight)]
    for _ in range(3):
        optimizer.zero_grad()
        model(IDS, IDS.flip(1)).square().sum().backward()
        optimizer.step()
    assert len(drawn) == 3
    assert all(not torch.equal(old, new) for old, new in zip(before, (board.gates.scores, model.head.weight)))


PARTS = {
    "encoder": lambda model: model.bert.encoder(model.bert.embeddings(IDS)).last_hidden_state,
    "base": lambda model: model.bert(IDS).last_hidden_state,
    "layer": lambda model: model.bert.encoder.layer[1](torch.ones(1, 3, 32)),
    "attention": lambda model: model.bert.encoder.layer[1].attention(torch.ones(1, 3, 32))[0],
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_called_in_training_draws_anew_every_time(part):
    model = BertForSequenceClassification(config()).train()
    board = gate_heads(model, relaxed(model))
    seen = []
    for _ in range(3):
        board.gates.scores.grad = None
        found = PARTS[part](model)
        found = found[0] if isinstance(found, tuple) else found
        found.square().sum().backward()
        seen.append(board.gates.scores.grad.clone())
    assert all(grad.abs().max() > 0 for grad in seen) and not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("inner_first", [True, False])
def test_gates_of_an_inner_and_an_outer_model_are_not_mixed(inner_first):
    model = BertForSequenceClassification(config())
    first, second = (model.bert, model) if inner_first else (model, model.bert)
    board = gate_heads(first, FixedGates(KEEP))
    with pytest.raises(ValueError, match="gated already"):
        gate_heads(second, FixedGates(KEEP))
    assert switchboard_of(model) is switchboard_of(model.bert) is board
    if inner_first:
        ungate_heads(model)
        assert not boards_of(model)
    else:
        for refused in (ungate_heads, prune_heads):
            with pytest.raises(ValueError, match="larger model.*BertForSequenceClassification"):
                refused(model.bert)
        assert switchboard_of(model) is board


def test_parts_that_were_gated_one_by_one():
    model = Pair(2)
    for encoder in model.encoders:
        gate_heads(encoder, FixedGates(KEEP))
    assert len(boards_of(model)) == 2
    with pytest.raises(ValueError, match="2 switchboards"):
        switchboard_of(model)
    ungate_heads(model)
    assert not boards_of(model)


def test_scores_of_several_parts_are_not_mixed_up(tmp_path):
    from safetensors.torch import save_model

    from dsp_plugin.hf import load_gating

    model = Pair(2)
    for encoder in model.encoders:
        gate_heads(encoder, relaxed(encoder))
    save_model(model, str(tmp_path / "model.safetensors"))
    before = switchboard_of(model.encoders[0]).gates.scores.detach().clone()
    with pytest.raises(ValueError, match="several gated parts .encoders.0, encoders.1."):
        load_gating(model.encoders[0], tmp_path)
    assert torch.equal(switchboard_of(model.encoders[0]).gates.scores, before)


def test_models_that_share_a_configuration_do_not_share_gates():
    shared = config()
    one, two = (BertModel(shared).eval() for _ in range(2))
    expected = two(IDS).last_hidden_state
    gate_heads(one, FixedGates(KEEP))
    one(IDS)
    assert torch.equal(two(IDS).last_hidden_state, expected) and switchboard_of(two) is None
    ungate_heads(one)
    gate_heads(two, FixedGates(KEEP))
    masked = two(IDS).last_hidden_state
    one.set_attn_implementation("eager")
    torch.testing.assert_close(two(IDS).last_hidden_state, masked, rtol=0, atol=1e-5)


COPIES = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("train_first", [False, True])
def test_copies_are_gated_by_their_own_switchboard(way, train_first):
    model = BertForSequenceClassification(config())
    board = gate_heads(model, FixedGates(KEEP))
    if train_first:
        model.train()(IDS).logits.sum().backward()
    model.eval()
    expected = model(IDS).logits
    twin = COPIES[way](model)
    assert torch.equal(twin(IDS).logits, expected)
    if way != "copy":
        assert switchboard_of(twin) is not board
        board.gates.mask.fill_(True)
        model.eval()
        assert torch.equal(twin(IDS).logits, expected) and not torch.equal(model(IDS).logits, expected)
        twin.train()(IDS).logits.sum().backward()


def test_a_copy_of_a_part_is_gated_too():
    model = BertForSequenceClassification(config()).eval()
    gate_heads(model, FixedGates(KEEP))
    expected = model.bert(IDS).last_hidden_state
    part = copy.deepcopy(model.bert)
    assert switchboard_of(part) is not switchboard_of(model)
    assert torch.equal(part(IDS).last_hidden_state, expected)
    ungate_heads(part)
    assert not torch.equal(part(IDS).last_hidden_state, expected) and torch.equal(
        model.bert(IDS).last_hidden_state, expected
    )


def test_rows_of_gates_need_rows():
    model = tiny_model("bert")
    board = gate_heads(model, FixedGates(torch.ones(8)))
    with (
        board.override(torch.ones(2, 8)),
        pytest.raises(ValueError, match="no row for each of the 2 examples"),
    ):
        model(**batch_of(model))


peft = pytest.importorskip("peft")


def lora(*targets):
    return peft.LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False)


def test_an_adapter_on_the_output_projection_after_gating_is_refused_at_the_first_forward():
    model = BertForSequenceClassification(config())
    gate_heads(model, FixedGates(KEEP))
    adapted = peft.get_peft_model(model, lora("attention.output.dense"))
    for mode in (True, False):
        with pytest.raises(
            ValueError, match="output projection of encoder.layer.0.attention is another module"
        ):
            adapted.train(mode)(IDS)


def test_an_adapter_elsewhere_after_gating_leaves_the_gates_in_force():
    model = BertForSequenceClassification(config())
    gate_heads(model, FixedGates(KEEP))
    adapted = peft.get_peft_model(model, lora("query", "value")).eval()
    plain = copy.deepcopy(adapted)
    ungate_heads(plain)
    assert not torch.equal(adapted(IDS).logits, plain(IDS).logits)
    expected = closed_by_hand(plain, KEEP)(IDS).logits
    torch.testing.assert_close(adapted(IDS).logits, expected, rtol=0, atol=1e-5)


def test_scores_that_an_adapter_froze_are_not_deployed_at_random():
    model = BertForSequenceClassification(config())
    gate_heads(model, relaxed(model))
    adapted = peft.get_peft_model(model, lora("query", "value")).train()
    optimizer = torch.optim.SGD([weight for weight in adapted.parameters() if weight.requires_grad], lr=0.1)
    with pytest.raises(HandshakeError, match="frozen"):
        for _ in range(2):
            adapted(IDS).logits.sum().backward()
            optimizer.step()


def test_a_model_with_adapters_around_it_is_refused():
    adapted = peft.get_peft_model(BertForSequenceClassification(config()), lora("query"))
    for refused in (lambda: gate_heads(adapted, FixedGates(KEEP)), lambda: prune_heads(adapted, KEEP)):
        with pytest.raises(ValueError, match="PeftModel.*merge_and_unload"):
            refused()
    assert not any(LINK in module.__dict__ for module in adapted.modules())
