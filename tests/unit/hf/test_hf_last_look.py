"""The last look: every wrong surgery is seen, no right one is refused, and what it runs with."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import BERT_SIZES, FAMILIES, VOCABULARY, tiny_model, uneven_mask  # isort: skip
from torch import nn
from transformers import BertConfig, BertLMHeadModel, BertModel

from dsp_plugin.hf import fill_heads, head_map_of, prune_heads, record_of
from dsp_plugin.hf.heads.layouts.locate import attentions_of
from dsp_plugin.hf.heads.surgery import pruning
from dsp_plugin.hf.heads.surgery.pruning import check_pruned, check_surgery

IDS = torch.arange(3, 11)[None]


def initial_model(family, dtype):
    """As a class makes it: attention of such small weights is near the mean, and hardly counts in the
    outputs.
    """
    torch.manual_seed(0)
    return FAMILIES[family]().to(dtype).eval()


def mask_of(model):
    blocks = [block.num_heads for block in head_map_of(model).blocks]
    return uneven_mask(sum(blocks), blocks)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "make", [initial_model, lambda family, dtype: tiny_model(family, dtype=dtype)], ids=["small", "large"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_right_surgery_passes(family, make, dtype):
    model = make(family, dtype)
    prune_heads(model, mask_of(model))
    check_pruned(model)


@torch.no_grad()
def swap_two_heads(attention, index):
    """Exchange the first two heads in one projection, in its first part."""
    projection = attention.projections[index]
    weight, unit = projection.module.weight, projection.unit
    transposed = type(projection.module).__name__ == "Conv1D"
    view = weight.T if projection.out == transposed else weight  # heads along the rows
    rows = torch.cat(
        [torch.arange(unit, 2 * unit), torch.arange(unit), torch.arange(2 * unit, view.shape[0])]
    )
    view.copy_(view[rows].clone())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("index", [0, 1, 2, -1], ids=["query", "key", "value", "output"])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_projection_with_two_heads_exchanged_is_seen(family, index, dtype, monkeypatch):
    model = initial_model(family, dtype)
    blocks = head_map_of(model).blocks
    keep = [head > 0 or block.num_heads < 3 for block in blocks for head in range(block.num_heads)]

    def wrong(attentions, kept):
        cut(attentions, kept)
        # the last block: no difference that grows on the way helps to see it
        attention = [attention for attention in attentions_of(model) if attention.block.num_heads > 1][-1]
        swap_two_heads(attention, index % len(attention.projections))

    cut = pruning.cut
    monkeypatch.setattr(pruning, "cut", wrong)
    with pytest.raises(ValueError, match=r"differs by .* its heads cannot be removed"):
        prune_heads(model, keep)


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_a_pruned_model_that_lost_its_way_is_not_itself(family):
    model = tiny_model(family)
    prune_heads(model, mask_of(model))
    check_pruned(model)
    attention = next(attention for attention in attentions_of(model) if attention.block.num_heads)
    projection = attention.output.module
    hook = projection.register_forward_pre_hook(lambda module, args: (1.1 * args[0],))
    check_pruned(model)  # another model, but the same with and without zeros in the places of heads
    hook.remove()
    projection.register_forward_pre_hook(lambda module, args: (args[0] * args[0].shape[-1] / 32,))
    with pytest.raises(ValueError, match=f"{attention.block.name} differs by"):
        check_pruned(model)


def test_check_false_runs_nothing_and_inputs_are_those_given():
    model = tiny_model("bert")
    seen = []
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    prune_heads(model, [True] * 7 + [False], check=False)
    assert seen == []
    check_pruned(model, {"input_ids": IDS})
    assert len(seen) > 1 and all(kwargs["input_ids"] is IDS for kwargs in seen)


def test_inputs_that_do_not_suit_are_the_users_to_mend():
    model = tiny_model("bert")
    before = model.state_dict()
    with pytest.raises(
        ValueError, match=r"cannot run BertForSequenceClassification .*check=inputs .*check=False"
    ):
        prune_heads(model, [True] * 7 + [False], check={"input_ids": IDS + VOCABULARY})
    with pytest.raises(ValueError, match=r"cannot run BertForSequenceClassification .*check=False"):
        check_surgery(model, inputs={"pixels": IDS})
    assert (
        all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
        and record_of(model) is None
    )


class Pair(nn.Module):
    """Two encoders that are called by a user's own forward, with arguments nobody else knows."""

    def __init__(self):
        super().__init__()
        self.first, self.second = tiny_model("bert").bert, tiny_model("distilbert").distilbert

    def forward(self, question=None, answer=None):
        one = 0 if question is None else self.first(question).last_hidden_state.mean(1)
        return one + (0 if answer is None else self.second(answer).last_hidden_state.mean(1))


def test_models_in_a_users_module_are_looked_at_one_by_one_or_with_inputs_of_the_whole():
    model = Pair().double()
    keep = [True, False] * 8
    with pytest.raises(
        ValueError, match="does not reach second.transformer.layer.0.attention.* of Pair: give check=inputs"
    ):
        prune_heads(model, keep, check={"question": IDS})
    whole = copy.deepcopy(model)
    assert (
        prune_heads(model, keep).heads_after
        == prune_heads(whole, keep, check={"question": IDS, "answer": IDS}).heads_after
        == 8
    )
    assert torch.equal(model(IDS, IDS), whole(IDS, IDS))
    assert list(record_of(model)) == [block.name for block in head_map_of(model).blocks]
    fill_heads(model)
    torch.testing.assert_close(model(IDS, IDS), whole(IDS, IDS), rtol=0, atol=1e-10)


def test_a_decoder_by_itself_is_given_something_to_look_at():
    config = BertConfig(
        **BERT_SIZES,
        vocab_size=VOCABULARY,
        is_decoder=True,
        add_cross_attention=True,
        bos_token_id=0,
        eos_token_id=2,
    )
    model = BertLMHeadModel(config)
    assert prune_heads(model, [True, False] * 8).heads_after == 8


def test_values_that_are_not_numbers_compare():
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.ln_f.bias.fill_(torch.nan)
        model.transformer.h[0].attn.c_proj.bias.zero_()
    assert prune_heads(model, [False] * 4 + [True] * 4).heads_after == 4


def test_noise_in_evaluation_is_the_same_in_both_runs():
    model = tiny_model("bert")
    model.bert.embeddings.register_forward_hook(lambda module, args, output: output + torch.rand_like(output))
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    prune_heads(model, [True, False] * 4)
    assert torch.equal(torch.rand(3), expected)


def test_a_cache_that_lost_count_is_seen(monkeypatch):
    monkeypatch.setattr(pruning, "count_steps_without_heads", lambda module: None)
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match="differs by"):
        prune_heads(model, [False] * 4 + [True] * 4)
    prune_heads(model, [False] * 4 + [True] * 4, check=False)


def test_weights_without_values_are_not_cut():
    with torch.device("meta"):
        model = BertModel(tiny_model("bert").config)
    with pytest.raises(ValueError, match="has no values"):
        prune_heads(model, [True] * 7 + [False])


@pytest.mark.parametrize("family", ["bloom", "mpt"])
def test_rows_of_padding_that_are_not_a_number_are_no_difference(family):
    """In double precision: their softmax is in single precision, where the lowest number is minus
    infinity.
    """
    model = tiny_model(family)
    heads = head_map_of(model).num_heads
    assert (
        prune_heads(model, [head % 2 == 1 and head > heads // 2 for head in range(heads)]).heads_after < heads
    )
