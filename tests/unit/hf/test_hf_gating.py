"""Gates on Transformers models: what they do, what they leave alone, and what they are refused on."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import FAMILIES, HEADS, TOLERANCE, batch_of, logits, tiny_model, uneven_mask  # isort: skip
import transformers
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dsp_plugin.gating import ExponentialCooling, FixedGates, RelaxedSubset
from dsp_plugin.hf import gate_heads, head_map_of, load_gating, prune_heads, switchboard_of, ungate_heads

families = pytest.mark.parametrize("family", FAMILIES)


def relaxed(model, k=4):
    return RelaxedSubset(head_map_of(model), k, ExponentialCooling(1.0, 0.1, 10))


@families
def test_the_head_map(family):
    head_map = head_map_of(tiny_model(family))
    assert head_map.num_heads == HEADS.get(family, 8)
    kinds = [block.kind for block in head_map.blocks]
    if family in ("bart", "marian", "t5"):
        assert kinds == ["encoder-self"] * 2 + ["decoder-cross"] * 2 + ["decoder-self"] * 2
    else:
        assert kinds == ["decoder-self" if family in ("gpt2", "llama") else "encoder-self"] * 2


def test_a_model_with_and_without_task_head_names_its_heads_alike():
    model = tiny_model("bert")
    assert head_map_of(model) == head_map_of(model.bert)
    assert head_map_of(model).blocks[0].name == "encoder.layer.0.attention"


def test_cross_attention_of_bert_and_gpt2_as_decoders():
    bert = transformers.BertConfig(
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        is_decoder=True,
        add_cross_attention=True,
    )
    gpt2 = transformers.GPT2Config(
        vocab_size=9, n_embd=8, n_layer=1, n_head=2, n_positions=9, add_cross_attention=True
    )
    source, ids = torch.randn(2, 3, 8), torch.tensor([[1, 2, 3], [3, 2, 1]])
    for masked in (transformers.BertLMHeadModel(bert).eval(), transformers.GPT2LMHeadModel(gpt2).eval()):
        assert [block.kind for block in head_map_of(masked).blocks] == ["decoder-cross", "decoder-self"]
        for keep in ([1, 0, 0, 1], [0, 0, 1, 1]):
            model, pruned = copy.deepcopy(masked), copy.deepcopy(masked)
            gate_heads(model, FixedGates(torch.tensor(keep)))
            prune_heads(pruned, keep)
            given = {"input_ids": ids, "encoder_hidden_states": source}
            torch.testing.assert_close(pruned(**given).logits, model(**given).logits, rtol=0, atol=1e-6)


@families
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_open_gates_change_nothing(family, implementation):
    dtype = torch.float32 if family == "llama" else torch.float64
    model = tiny_model(family, implementation, dtype)
    batch = batch_of(model)
    with torch.no_grad():
        expected = logits(model, batch)
        board = gate_heads(model, FixedGates(torch.ones(HEADS.get(family, 8))))
        assert torch.equal(logits(model, batch), expected)
        with board.override(torch.ones(board.head_map.num_heads)):  # multiplied, not left out
            assert torch.equal(logits(model, batch), expected)
        ungate_heads(model)
        assert torch.equal(logits(model, batch), expected)
    assert switchboard_of(model) is None and model.config._attn_implementation == implementation
    assert not [name for name in model.state_dict() if name.startswith("gating.")]


@families
def test_padding_is_not_attended_to(family):
    """What stands in padded places must not matter. Without a mask function of the same name it would."""
    model = tiny_model(family)
    batch = batch_of(model)
    gate_heads(model, FixedGates(uneven_mask(HEADS.get(family, 8), [2, 2])))
    other = {**batch, "input_ids": torch.where(batch["attention_mask"].bool(), batch["input_ids"], 7)}
    with torch.no_grad():
        torch.testing.assert_close(
            logits(model, other), logits(model, batch), rtol=0, atol=TOLERANCE.get(family, 1e-10)
        )
        unmasked = {**other, "attention_mask": torch.ones_like(batch["attention_mask"])}
        real = batch["attention_mask"].bool()
        seen = model(**unmasked).logits
        seen = seen[real] if seen.shape[:2] == real.shape else seen
        assert (seen - logits(model, batch)).abs().max() > 1e-3


@families
def test_gates_of_every_example_equal_runs_one_by_one(family):
    model = tiny_model(family)
    batch = batch_of(model)
    board = gate_heads(model, FixedGates(torch.ones(HEADS.get(family, 8))))
    gates = torch.rand(
        3, board.head_map.num_heads, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        with board.override(gates):
            together = model(**batch).logits
        for row in range(3):
            with board.override(gates[row]):
                alone = model(**{name: value[row : row + 1] for name, value in batch.items()}).logits
            mask = (
                batch["attention_mask"][row].bool()
                if together.shape[:2] == batch["attention_mask"].shape
                else slice(None)
            )
            torch.testing.assert_close(
                together[row][mask], alone[0][mask], rtol=0, atol=TOLERANCE.get(family, 1e-9)
            )


@families
def test_the_gradient_of_a_gate(family):
    """Against a central difference, in eval mode, for a few heads of each kind."""
    model = tiny_model(family)
    batch = batch_of(model)
    board = gate_heads(model, FixedGates(torch.ones(HEADS.get(family, 8))))
    num_heads = board.head_map.num_heads
    point = torch.linspace(0.3, 1.1, num_heads, dtype=torch.float64)

    def loss(gates):
        with board.override(gates):
            return logits(model, batch).square().mean()

    gates = point.clone().requires_grad_()
    loss(gates).backward()
    # single-precision norms make a small step noisy, and a large one is not the gradient
    step, tolerance = (1e-2, 5e-3) if family in TOLERANCE else (1e-5, 1e-7)
    for head in {0, 3, num_heads // 2, num_heads - 1}:
        shift = step * torch.eye(num_heads, dtype=torch.float64)[head]
        with torch.no_grad():
            slope = (loss(point + shift) - loss(point - shift)) / (2 * step)
        assert abs(float(slope - gates.grad[head])) <= tolerance * max(1.0, float(gates.grad.abs().max()))


@families
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_gates_do_the_same_without_gradients(family, implementation):
    """There they multiply in place, which may change nothing but the context, also where it has one
    position only.
    """
    model = tiny_model(family, implementation)
    board = gate_heads(model, FixedGates(torch.ones(HEADS.get(family, 8))))
    with board.override(torch.linspace(0.3, 1.1, board.head_map.num_heads, dtype=torch.float64)):
        for length in (7, 1):
            batch = batch_of(model, length=length, padding=False)
            with torch.no_grad():
                found = model(**batch).logits
            torch.testing.assert_close(
                found, model(**batch).logits, rtol=0, atol=TOLERANCE.get(family, 1e-10)
            )


# which knows no checkpointing
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "albert"])
def test_training_draws_once_a_pass_also_under_gradient_checkpointing(family):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(family, dtype=torch.float32)
        torch.manual_seed(1)
        board = gate_heads(model, relaxed(model))
        drawn = []
        sample = board.gates.sample
        board.gates.sample = lambda: drawn.append(1) or sample()
        if checkpointing:
            model.activation_checkpointing_enable()
        for part in model.modules():
            # BART and T5 keep numbers
            for name in ("p", "dropout", "attention_dropout", "activation_dropout"):
                if isinstance(getattr(part, name, None), float):
                    setattr(part, name, 0.0)
        model.train()
        batch = batch_of(model)
        torch.manual_seed(2)
        logits(model, batch).square().mean().backward()
        assert len(drawn) == 1
        gradients.append(board.gates.scores.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-7)


def test_a_second_pass_draws_again_and_eval_is_the_mask():
    model = tiny_model("bert", dtype=torch.float32)
    gate_heads(model, relaxed(model))
    batch = batch_of(model)
    assert torch.equal(logits(model, batch), logits(model, batch))
    model.train()
    gates = [switchboard_of(model).drawn(0) for _ in range(2) if logits(model, batch) is not None]
    assert not torch.equal(*gates)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["bert", "llama", "t5", "gpt2"])
def test_half_precision(family, dtype):
    model = tiny_model(family, dtype=dtype)
    gates = relaxed(model)
    board = gate_heads(model, gates)
    model.to(dtype)
    assert board.gates.scores.dtype == torch.float32
    batch = batch_of(model)
    assert logits(model, batch).dtype == dtype
    pruned = copy.deepcopy(model)
    prune_heads(pruned, gates.keep())
    scale = logits(model, batch).abs().max()
    assert (logits(pruned, batch) - logits(model, batch)).abs().max() <= 0.05 * scale
    model.train()
    logits(model, batch).float().square().mean().backward()
    assert torch.isfinite(gates.scores.grad).all() and gates.scores.grad.abs().max() > 0


def test_a_copy_has_gates_of_its_own():
    model = tiny_model("bert")
    gate_heads(model, FixedGates(torch.tensor([1, 0, 1, 0, 1, 1, 1, 1])))
    twin = copy.deepcopy(model)
    batch = batch_of(model)
    expected = logits(model, batch)
    switchboard_of(model).gates.mask.fill_(True)
    model.eval()
    assert torch.equal(logits(twin, batch), expected)
    assert not torch.equal(logits(model, batch), expected)


def test_gates_are_saved_with_the_model_which_stays_loadable(tmp_path):
    model = tiny_model("bert")
    board = gate_heads(model, relaxed(model))
    model.save_pretrained(tmp_path)
    stock = transformers.BertForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float64)
    assert stock.config._attn_implementation == "sdpa" and switchboard_of(stock) is None
    fresh = gate_heads(stock, relaxed(stock))
    assert not torch.equal(fresh.gates.scores, board.gates.scores)
    load_gating(stock, tmp_path)
    assert torch.equal(fresh.gates.scores, board.gates.scores)
    batch = batch_of(model)
    assert torch.equal(logits(stock.eval(), batch), logits(model, batch))
    ungate_heads(stock)
    with pytest.raises(ValueError, match="gate_heads.model, gates. first"):
        load_gating(stock, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no scores"):
        load_gating(model, tmp_path / "empty")


def test_flash_runs_under_its_own_name(monkeypatch):
    """The flash functions ask the configuration for the kernel's name: they must find the stock one there."""
    seen = []

    def flash(module, query, key, value, mask, **kwargs):
        seen.append(module.config._attn_implementation)
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, None, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", flash)
    model = tiny_model("bert")
    batch = batch_of(model, padding=False)
    expected = logits(model, batch)
    model.config._attn_implementation_internal = "flash_attention_2"
    gate_heads(model, FixedGates(torch.ones(8)))
    assert torch.equal(logits(model, batch), expected)
    assert seen == ["flash_attention_2"] * 2 and model.config._attn_implementation == "flash_attention_2"
    ungate_heads(model)
    prune_heads(model, [True] * 4 + [False] * 4)  # a block without heads is served by our function
    logits(model, batch)
    assert model.config._attn_implementation == "dsp_flash_attention_2" and set(seen) == {"flash_attention_2"}


@families
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_gates_stay_whatever_attention_is_set_afterwards(family, implementation):
    """Of the gated model and of the pruned one; and maps are those of open heads."""
    model = tiny_model(family, "eager" if implementation == "sdpa" else "sdpa", torch.float32)
    head_map = head_map_of(model)
    keep = uneven_mask(head_map.num_heads, [block.num_heads for block in head_map.blocks])
    pruned, batch = copy.deepcopy(model), batch_of(model)
    gate_heads(model, FixedGates(keep))
    prune_heads(pruned, keep)
    with torch.no_grad():
        expected = logits(model, batch)
        for changed in (model, pruned):
            changed.set_attn_implementation(implementation)
            torch.testing.assert_close(logits(changed, batch), expected, rtol=0, atol=1e-4)
            asked = {"output_attentions": True} if implementation == "eager" else {}
            maps = changed(**batch, **asked)
            maps = maps.get("attentions", maps.get("encoder_attentions"))
            if implementation == "eager":
                assert {layer.shape[1] > 0 for layer in maps} == {True, False}


def test_attention_weights_of_eager_attention():
    model = tiny_model("bert", "eager")
    prune_heads(model, [True] * 2 + [False] * 6)
    weights = model(**batch_of(model), output_attentions=True).attentions
    assert [tuple(layer.shape) for layer in weights] == [(3, 2, 7, 7), (3, 0, 7, 7)]


@families
def test_a_masked_model_shows_the_attention_weights_of_the_pruned_one(family):
    """Those of its open heads; a block with none shows none. In training, where no head is open or closed,
    all.
    """
    masked = tiny_model(family, "eager")
    head_map = head_map_of(masked)
    keep = uneven_mask(head_map.num_heads, [block.num_heads for block in head_map.blocks])
    pruned, batch = copy.deepcopy(masked), batch_of(masked)
    prune_heads(pruned, keep)
    gate_heads(masked, FixedGates(keep.float()))
    expected, found = (model(**batch, output_attentions=True) for model in (pruned, masked))
    names = [name for name in expected if "attentions" in name and expected[name]]
    assert len(names) == (3 if masked.config.is_encoder_decoder else 1)
    for name in names:
        assert len(found[name]) == len(expected[name])
        for theirs, ours in zip(expected[name], found[name]):
            # rows that are all padding are NaN
            torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE.get(family, 1e-9), equal_nan=True)
    masked.train()
    (first, *_) = masked(**batch, output_attentions=True)[names[0]]
    assert (
        first.shape[1] == tiny_model(family, "eager")(**batch, output_attentions=True)[names[0]][0].shape[1]
    )


def test_attention_weights_of_rows_of_gates():
    """Under a mask of its own for every example no head is left out for all; under one for all those
    closed are.
    """
    model = tiny_model("bert", "eager")
    switchboard = gate_heads(model, FixedGates(torch.ones(8)))
    rows = torch.ones(3, 8)
    rows[:, 1] = 0
    with switchboard.override(rows):
        assert model(**batch_of(model), output_attentions=True).attentions[0].shape[1] == 3
    rows[0, 1] = 1
    with switchboard.override(rows):
        assert model(**batch_of(model), output_attentions=True).attentions[0].shape[1] == 4


def small(config, **kwargs):
    return config(vocab_size=9, **kwargs)


UNSUPPORTED = {
    "XLNetModel": lambda: small(transformers.XLNetConfig, d_model=8, n_layer=1, n_head=2, d_inner=8),
    "Olmo2Model": lambda: small(
        transformers.Olmo2Config,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    ),
}


@pytest.mark.parametrize(
    "name, reason",
    [
        ("XLNetModel", "layer.0.rel_attn .XLNetRelativeAttention. works out attention by itself"),
        ("Olmo2Model", "self_attn .Olmo2Attention. has weights that may belong to heads.*q_norm.weight"),
    ],
)
def test_unsupported_models_are_refused_by_name(name, reason):
    model = getattr(transformers, name)(UNSUPPORTED[name]())
    with pytest.raises(ValueError, match=f"{name} is not supported: .*{reason}"):
        gate_heads(model, FixedGates(torch.ones(2)))


def test_wrong_gates_are_refused():
    model = tiny_model("bert")
    with pytest.raises(ValueError, match="gates for 7 heads on a model with 8"):
        gate_heads(model, FixedGates(torch.ones(7)))
    assert model.config._attn_implementation == "sdpa"
    gate_heads(model, FixedGates(torch.ones(8)))
    with pytest.raises(ValueError, match="gated already"):
        gate_heads(model, FixedGates(torch.ones(8)))
    with pytest.raises(ValueError, match="Linear is not a Transformers model"):
        head_map_of(torch.nn.Linear(1, 1))
