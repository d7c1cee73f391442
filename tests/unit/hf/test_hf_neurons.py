"""Groups of neurons beside heads: masked, pruned, reloaded, filled up and dense, for every family."""

from __future__ import annotations

import copy
import json

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import DECODERS, FAMILIES, MORE, SINGLE, TOLERANCE, batch_of, logits, tiny_model  # isort: skip
import transformers
from torch import nn

from dsp_plugin.gating import FixedGates, HeadMap, best_of_blocks
from dsp_plugin.hf import (
    check_pruned,
    count_parameters,
    export_dense,
    fill_heads,
    gate_heads,
    head_map_of,
    load_pruned,
    original_head_map,
    prune_heads,
    record_of,
    save_pruned,
    ungate_heads,
)
from dsp_plugin.hf.heads.units import units_of

GROUP = 4  # of 40 neurons, or 128 of GPT-2
# of each layout; scripts/hf/check_families.py --all --neurons takes every model
OTHERS = "deberta-v2 mpnet modernbert gpt-neox phi stablelm opt gptj gpt-neo bloom mpt xglm falcon".split()
families = pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
some = pytest.mark.parametrize("family", ["bert", "albert", "gpt2", "llama", "bart"])


def model_of(family):
    return tiny_model(family, dtype=torch.float32 if family in SINGLE else torch.float64)


def tolerance_of(family):
    return 2e-4 if family in SINGLE else TOLERANCE.get(family, 1e-10)


def random_mask(heads: HeadMap, seed: int, empty: str = "") -> torch.Tensor:
    """Bool [N]: about half; the first block whose kind ends in `empty` has none left."""
    keep = torch.rand(heads.num_heads, generator=torch.Generator().manual_seed(seed)) < 0.5
    for block in heads.blocks:
        if empty and block.kind.endswith(empty):
            start, stop = heads.range(block.name)
            keep[start:stop] = False
            break
    return keep


@families
def test_masked_is_pruned_is_reloaded_is_filled(family, tmp_path):
    stock, tolerance = model_of(family), tolerance_of(family)
    masked, pruned, batch = copy.deepcopy(stock), copy.deepcopy(stock), batch_of(stock)
    heads = head_map_of(stock, neurons=GROUP)
    assert [block for block in heads.blocks if not block.neurons] == list(head_map_of(stock).blocks)
    assert list(head_map_of(stock, GROUP, heads=False).blocks) == [b for b in heads.blocks if b.neurons]
    keep = random_mask(heads, 7, "ffn")
    gate_heads(masked, FixedGates(keep), neurons=GROUP)
    check = batch if family in SINGLE else True  # no half of whose largest number they can take
    removal = prune_heads(pruned, keep, check, neurons=GROUP)
    assert (removal.heads_before, removal.heads_after) == (heads.num_heads, int(keep.sum()))
    with torch.no_grad():
        expected = logits(masked, batch)
        assert (logits(stock, batch) - expected).abs().max() > 1e-2  # the mask matters
        torch.testing.assert_close(logits(pruned, batch), expected, rtol=0, atol=tolerance)
        save_pruned(pruned, tmp_path / "pruned", check=check)
        reloaded = load_pruned(tmp_path / "pruned", dtype=expected.dtype)
        torch.testing.assert_close(logits(reloaded, batch), expected, rtol=0, atol=tolerance)
        assert record_of(reloaded) == record_of(pruned) == removal.kept_heads == heads.kept_by_block(keep)
        assert original_head_map(reloaded) == heads
        assert head_map_of(reloaded, GROUP).num_heads == int(keep.sum())
        fill_heads(pruned)
        torch.testing.assert_close(logits(pruned, batch), expected, rtol=0, atol=tolerance)
    assert {n: p.shape for n, p in pruned.named_parameters()} == {
        n: p.shape for n, p in stock.named_parameters()
    }
    assert record_of(pruned) is None
    assert not hasattr(pruned.config, "neuron_groups") and not hasattr(pruned.config, "kept_heads")


@some
@pytest.mark.parametrize("seed", range(2))
def test_pruning_twice_is_pruning_once(family, seed):
    once, twice, batch = model_of(family), model_of(family), batch_of(model_of(family))
    heads = head_map_of(once, GROUP)
    first = random_mask(heads, seed) | random_mask(heads, seed + 10)
    second = random_mask(heads, seed + 20)[: int(first.sum())]
    both = first.clone()
    both[first] = second
    prune_heads(once, both, neurons=GROUP)
    prune_heads(twice, first, neurons=GROUP)
    assert prune_heads(twice, second, neurons=GROUP).kept_heads == record_of(once)
    assert once.config.neuron_groups == twice.config.neuron_groups
    with torch.no_grad():
        torch.testing.assert_close(logits(twice, batch), logits(once, batch), rtol=0, atol=0)


@some
def test_heads_and_neurons_one_after_the_other_are_both_at_once(family):
    model = model_of(family)
    batch, heads = batch_of(model), head_map_of(model, GROUP)
    keep = random_mask(heads, 3)
    split = head_map_of(model).num_heads
    orders = []
    for neurons_first in (False, True, None):
        pruned = copy.deepcopy(model)
        if neurons_first is None:
            prune_heads(pruned, keep, neurons=GROUP)
        else:
            steps = [
                lambda: prune_heads(pruned, keep[:split]),
                lambda: prune_heads(pruned, keep[split:], neurons=GROUP, heads=False),
            ]
            for step in reversed(steps) if neurons_first else steps:
                step()
        orders.append((record_of(pruned), logits(pruned, batch)))
    for record, output in orders[:-1]:
        assert record == orders[-1][0]
        torch.testing.assert_close(output, orders[-1][1], rtol=0, atol=0)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "bart", "t5", "modernbert"])
def test_no_neuron_at_all_leaves_the_output_bias(family, tmp_path):
    model = model_of(family)
    pruned, batch, heads = copy.deepcopy(model), batch_of(model), head_map_of(model, GROUP, heads=False)
    gate_heads(model, FixedGates(torch.zeros(heads.num_heads)), neurons=GROUP, heads=False)
    removal = prune_heads(pruned, [False] * heads.num_heads, neurons=GROUP, heads=False)
    assert removal.heads_after == 0
    for units in units_of(pruned, GROUP, heads=False):
        states = torch.randn(2, 3, 0, dtype=torch.float64)
        bias = units.output.module.bias
        expected = torch.zeros(2, 3, 32, dtype=torch.float64) + (0.0 if bias is None else bias)
        assert torch.equal(units.output.module(states), expected)
    with torch.no_grad():
        expected = logits(model, batch)
        torch.testing.assert_close(logits(pruned, batch), expected, rtol=0, atol=tolerance_of(family))
        save_pruned(pruned, tmp_path)
        reloaded = load_pruned(tmp_path, dtype=torch.float64)
        torch.testing.assert_close(logits(reloaded, batch), expected, rtol=0, atol=tolerance_of(family))
        fill_heads(reloaded)
        torch.testing.assert_close(logits(reloaded, batch), expected, rtol=0, atol=tolerance_of(family))


@pytest.mark.parametrize("family", DECODERS)
def test_generation_with_a_cache(family):
    masked = model_of(family)
    pruned, heads = copy.deepcopy(masked), head_map_of(masked, GROUP)
    keep = random_mask(heads, 5, "ffn")
    gate_heads(masked, FixedGates(keep), neurons=GROUP)
    prune_heads(pruned, keep, neurons=GROUP)
    batch = {name: value for name, value in batch_of(masked).items() if not name.startswith("decoder")}
    options = dict(do_sample=False, min_new_tokens=5, max_new_tokens=5, num_beams=2)
    assert masked.generate(**batch, **options).tolist() == pruned.generate(**batch, **options).tolist()


@some
def test_a_gated_model_is_pruned_by_its_own_mask_and_exported(family, tmp_path):
    masked = model_of(family)
    heads, batch = head_map_of(masked, GROUP), batch_of(masked)
    keep = random_mask(heads, 11)
    gate_heads(masked, FixedGates(keep), neurons=GROUP)
    export_dense(masked, tmp_path)
    dense = type(masked).from_pretrained(tmp_path, dtype=torch.float64).eval()
    with torch.no_grad():
        expected = logits(masked, batch)
        torch.testing.assert_close(logits(dense, batch), expected, rtol=0, atol=tolerance_of(family))
        assert prune_heads(masked).kept_heads == heads.kept_by_block(keep)
        torch.testing.assert_close(logits(masked, batch), expected, rtol=0, atol=tolerance_of(family))
    check_pruned(masked)
    content = json.loads((tmp_path / "config.json").read_text())
    assert not {"kept_heads", "neuron_groups"} & content.keys()


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_feed_forward_in_chunks(family):
    stock = model_of(family)
    heads, batch = head_map_of(stock, GROUP), batch_of(stock, length=8, padding=False)
    keep = random_mask(heads, 2)
    gate_heads(stock, FixedGates(keep), neurons=GROUP)
    expected = logits(stock, batch)
    for layer in stock.modules():
        if hasattr(layer, "chunk_size_feed_forward"):
            layer.chunk_size_feed_forward = 2
    torch.testing.assert_close(logits(stock, batch), expected, rtol=0, atol=1e-10)
    prune_heads(stock)
    torch.testing.assert_close(logits(stock, batch), expected, rtol=0, atol=1e-10)


def test_t5_keeps_its_projection_down_in_single_precision():
    model = tiny_model("t5", dtype=torch.bfloat16)
    for units in units_of(model, GROUP, heads=False):
        units.output.module.float()
    heads, batch = head_map_of(model, GROUP), batch_of(model)
    keep = random_mask(heads, 4)
    gate_heads(model, FixedGates(keep), neurons=GROUP)
    with torch.no_grad():
        expected = logits(model, batch)
        prune_heads(model)
        torch.testing.assert_close(logits(model, batch), expected, rtol=0, atol=5e-2)
    assert all(u.output.module.weight.dtype == torch.float32 for u in units_of(model, GROUP, heads=False))


def test_whisper_and_gated_t5():
    """A gated pair with one matrix each, and an encoder that reads no text."""
    config = dict(vocab_size=40, d_model=32, d_kv=8, d_ff=40, num_layers=2, num_heads=4, pad_token_id=1)
    torch.manual_seed(1)
    gated = transformers.T5Config(**config, feed_forward_proj="gated-gelu", decoder_start_token_id=2)
    for model in (MORE["whisper"](), transformers.T5ForConditionalGeneration(gated)):
        model = model.double().eval()
        heads = head_map_of(model, GROUP, heads=False)
        assert [block.kind for block in heads.blocks] == ["encoder-ffn"] * 2 + ["decoder-ffn"] * 2
        prune_heads(model, random_mask(heads, 1, "ffn"), neurons=GROUP, heads=False)  # looked at there
        check_pruned(model)
    assert [len(units.projections) for units in units_of(model, GROUP, heads=False)] == [3] * 4


def test_parameters_of_a_group_by_hand():
    """BERT: of C = 32, a group of 4 has (C + 1) * 4 weights in the projection up and C * 4 down."""
    model = tiny_model("bert")
    before = count_parameters(model)
    removal = prune_heads(model, torch.arange(20) < 13, neurons=GROUP, heads=False)
    assert before - removal.parameters_after == 7 * (33 * 4 + 32 * 4)
    layer = model.bert.encoder.layer[1]
    assert (layer.intermediate.dense.out_features, layer.output.dense.in_features) == (12, 12)
    assert removal.kept_heads["encoder.layer.1.output.dense"] == [0, 1, 2]
    assert removal.kept_heads["encoder.layer.1.attention"] == [0, 1, 2, 3]  # as before


def test_a_share_of_every_block_by_scores():
    """What a method of several ratios a layer needs: three heads of four, six groups of ten, in one call."""
    model = tiny_model("bert")
    heads = head_map_of(model, GROUP)
    scores = torch.rand(heads.num_heads, generator=torch.Generator().manual_seed(0))
    keep = best_of_blocks(heads, scores, {"encoder-self": 3, "encoder-ffn": 6})
    prune_heads(model, keep, neurons=GROUP)
    assert [block.num_heads for block in head_map_of(model, GROUP).blocks] == [3, 3, 6, 6]
    for part, mask in zip(heads.split(scores), heads.split(keep)):
        assert part[mask].min() > part[~mask].max()


def test_groups_to_remove_by_layer_as_transformers_had_it_for_heads():
    model = tiny_model("bert")
    prune_heads(model, {1: [0, 9]}, neurons=GROUP, heads=False)
    record = prune_heads(model, {1: [0, 3], 0: [1]}, neurons=GROUP, heads=False).kept_heads
    assert record["encoder.layer.0.output.dense"] == [0, 2, 3, 4, 5, 6, 7, 8, 9]
    assert record["encoder.layer.1.output.dense"] == [1, 2, 4, 5, 6, 7, 8]


def test_without_neurons_nothing_is_what_it_was_not():
    """Heads alone: the same map, the same record, the same configuration as before there were neurons."""
    model = tiny_model("bert")
    assert head_map_of(model).to_dict()["blocks"][0] == {
        "name": "encoder.layer.0.attention",
        "num_heads": 4,
        "kind": "encoder-self",
    }
    prune_heads(model, torch.arange(8) % 2 == 0)
    assert model.config.kept_heads == {f"encoder.layer.{n}.attention": [0, 2] for n in (0, 1)}
    assert not hasattr(model.config, "neuron_groups")


def test_gates_on_groups_of_another_size_afterwards():
    model = tiny_model("bert")
    batch = batch_of(model)
    gate_heads(model, FixedGates(torch.zeros(4)), neurons=20, heads=False)
    ungate_heads(model)
    gate_heads(model, FixedGates(torch.arange(20) % 2), neurons=4, heads=False)
    expected = logits(model, batch)
    prune_heads(model)
    assert record_of(model)["encoder.layer.0.output.dense"] == [1, 3, 5, 7, 9]
    torch.testing.assert_close(logits(model, batch), expected, rtol=0, atol=1e-10)


def test_a_module_of_ones_own(tmp_path):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = tiny_model("bert"), tiny_model("gpt2")

        def forward(self, **inputs):
            return self.one(**inputs).logits.mean() + self.two(**inputs).logits.mean()

    model, batch = Pair(), batch_of(tiny_model("bert"))
    heads = head_map_of(model, 8)
    keep = random_mask(heads, 1)
    gate_heads(model, FixedGates(keep), neurons=8)
    expected = model.eval()(**batch)
    prune_heads(model)
    torch.testing.assert_close(model(**batch), expected, rtol=0, atol=1e-10)
    save_pruned(model, tmp_path)
    torch.testing.assert_close(load_pruned(tmp_path, model=Pair())(**batch), expected, rtol=0, atol=1e-10)
    # one inner model knows its own groups, though only that one lost any
    other = Pair()
    prune_heads(other.two, [False] + [True] * 31, neurons=8, heads=False)
    save_pruned(other, tmp_path)
    assert record_of(load_pruned(tmp_path, model=Pair())) == record_of(other)
    assert "one.bert.encoder.layer.0.output.dense" not in record_of(other)
