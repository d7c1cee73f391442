"""Masked, pruned, reloaded and dense: four forms of one model, for every family."""

from __future__ import annotations

import copy
import json

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import DECODERS, FAMILIES, HEADS, TOLERANCE, batch_of, logits, tiny_model, uneven_mask  # isort: skip
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from dsp_plugin.gating import FixedGates, StraightThroughSubset
from dsp_plugin.hf import (
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
    switchboard_of,
)

families = pytest.mark.parametrize("family", FAMILIES)


def masked_and_pruned(family, implementation="sdpa", dtype=torch.float64):
    masked = tiny_model(family, implementation, dtype)
    pruned = copy.deepcopy(masked)
    head_map = head_map_of(masked)
    keep = uneven_mask(head_map.num_heads, [block.num_heads for block in head_map.blocks])
    gate_heads(masked, FixedGates(keep))
    return masked, pruned, keep, prune_heads(pruned, keep)


def auto_class(model):
    if model.config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    return (
        AutoModelForCausalLM
        if type(model).__name__.endswith(("CausalLM", "LMHeadModel"))
        else AutoModelForSequenceClassification
    )


@families
def test_masked_is_pruned_is_reloaded_is_dense(family, tmp_path):
    masked, pruned, keep, removal = masked_and_pruned(family)
    batch, tolerance = batch_of(masked), TOLERANCE.get(family, 1e-10)
    with torch.no_grad():
        expected = logits(masked, batch)
        assert (logits(tiny_model(family), batch) - expected).abs().max() > 1e-2  # the mask matters
        torch.testing.assert_close(logits(pruned, batch), expected, rtol=0, atol=tolerance)
        save_pruned(pruned, tmp_path / "pruned")
        reloaded = load_pruned(tmp_path / "pruned", dtype=torch.float64)
        torch.testing.assert_close(logits(reloaded, batch), logits(pruned, batch), rtol=0, atol=tolerance)
        export_dense(tmp_path / "pruned", tmp_path / "dense")
        dense = auto_class(masked).from_pretrained(tmp_path / "dense", dtype=torch.float64).eval()
        torch.testing.assert_close(logits(dense, batch), expected, rtol=0, atol=tolerance)
    assert type(reloaded) is type(dense) is FAMILIES[family]().__class__
    assert removal.heads_after == int(keep.sum()) == sum(map(len, record_of(reloaded).values()))
    assert head_map_of(reloaded) == head_map_of(pruned)
    assert original_head_map(reloaded) == head_map_of(masked)
    assert (
        count_parameters(reloaded)
        == removal.parameters_after
        < removal.parameters_before
        == count_parameters(dense)
    )


@families
def test_eager_attention_too(family):
    # Llama's eager softmax is in single precision, where double precision's lowest number is minus infinity
    masked, pruned, _, _ = masked_and_pruned(
        family, "eager", torch.float32 if family == "llama" else torch.float64
    )
    batch = batch_of(masked)
    with torch.no_grad():
        torch.testing.assert_close(
            logits(pruned, batch), logits(masked, batch), rtol=0, atol=TOLERANCE.get(family, 1e-10)
        )


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize(
    "options", [{"num_beams": 1}, {"num_beams": 2}, {"cache_implementation": "static"}], ids=str
)
def test_generation_with_a_cache(family, options):
    masked, pruned, _, _ = masked_and_pruned(family)
    batch = {name: value for name, value in batch_of(masked).items() if not name.startswith("decoder")}
    options = dict(options, do_sample=False, min_new_tokens=5, max_new_tokens=5, disable_compile=True)
    expected = masked.generate(**batch, **options)
    assert expected.tolist() == pruned.generate(**batch, **options).tolist()
    if "cache_implementation" not in options:  # the cache has not lost anything
        assert expected.tolist() == pruned.generate(**batch, **options, use_cache=False).tolist()


@families
def test_no_head_at_all_leaves_the_output_bias(family):
    model = tiny_model(family)
    pruned, batch = copy.deepcopy(model), batch_of(model)
    num_heads = head_map_of(model).num_heads
    gate_heads(model, FixedGates(torch.zeros(num_heads)))
    removal = prune_heads(pruned, [False] * num_heads)
    with torch.no_grad():
        torch.testing.assert_close(
            logits(pruned, batch), logits(model, batch), rtol=0, atol=TOLERANCE.get(family, 1e-10)
        )
    assert removal.heads_after == head_map_of(pruned).num_heads == 0


@families
def test_pruning_twice_is_pruning_once(family):
    once, twice = tiny_model(family), tiny_model(family)
    num_heads = head_map_of(once).num_heads
    assert num_heads == HEADS.get(family, 8)
    first = torch.arange(num_heads) % 4 != 1
    second = torch.arange(int(first.sum())) % 3 != 0
    both = first.clone()
    both[first] = second
    prune_heads(once, both)
    prune_heads(twice, first)
    removal = prune_heads(twice, second)
    assert removal.kept_heads == record_of(once)
    batch = batch_of(once)
    with torch.no_grad():
        torch.testing.assert_close(logits(twice, batch), logits(once, batch), rtol=0, atol=0)


@families
def test_a_pruned_model_learns_and_filling_up_makes_it_stock(family):
    _, model, keep, _ = masked_and_pruned(family)
    batch = batch_of(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    before = logits(model, batch)
    before.square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        after = logits(model, batch)
        assert (after - before).abs().max() > 1e-6
        fill_heads(model)
        torch.testing.assert_close(logits(model, batch), after, rtol=0, atol=TOLERANCE.get(family, 1e-10))
    stock = tiny_model(family)
    assert {n: p.shape for n, p in model.named_parameters()} == {
        n: p.shape for n, p in stock.named_parameters()
    }
    assert record_of(model) is None and model.config._attn_implementation == "sdpa"


def test_parameters_of_a_head_by_hand():
    """BERT: of C = 32, d = 8, a head has 3 (C + 1) d in query, key and value and C d in the output."""
    removal = prune_heads(tiny_model("bert"), torch.arange(8) < 3)
    assert removal.parameters_before - removal.parameters_after == 5 * (3 * 33 * 8 + 32 * 8)
    # Llama: a group of 2 query heads of 4 with its key and value, and the 2 heads' columns; no biases
    removal = prune_heads(tiny_model("llama"), torch.arange(8) < 3)
    assert removal.parameters_before - removal.parameters_after == 5 * (2 * 4 + 4 + 4 + 2 * 4) * 32


def test_a_gated_model_is_pruned_by_its_own_mask_and_exported(tmp_path):
    masked = tiny_model("bert")
    keep = torch.arange(8) % 3 == 0
    gate_heads(masked, FixedGates(keep))
    export_dense(masked, tmp_path)
    batch = batch_of(masked)
    dense = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float64).eval()
    with torch.no_grad():
        expected = logits(masked, batch)
        torch.testing.assert_close(logits(dense, batch), expected, rtol=0, atol=1e-10)
        assert prune_heads(masked).heads_after == 3
        torch.testing.assert_close(logits(masked, batch), expected, rtol=0, atol=1e-10)
    zeros = dense.bert.encoder.layer[0].attention.output.dense.weight.abs().sum(0).view(4, 8).sum(1) == 0
    assert zeros.tolist() == [False, True, True, False]
    assert "kept_heads" not in json.loads((tmp_path / "config.json").read_text())


def test_an_adapter_or_a_quantised_projection_is_refused():
    class Adapted(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self.weight = inner.weight

    model = tiny_model("bert")
    layer = model.bert.encoder.layer[0].attention.self
    layer.query = Adapted(layer.query)
    with pytest.raises(ValueError, match="encoder.layer.0.attention is a Adapted.*merge"):
        prune_heads(model, [True] * 8)


@pytest.mark.parametrize(
    "keep, message", [(None, "which heads to keep was not said"), ([True] * 7, "expected 8 flags")]
)
def test_a_mask_that_does_not_fit_is_refused(keep, message):
    with pytest.raises(ValueError, match=message):
        prune_heads(tiny_model("bert"), keep)


def test_scores_that_nothing_has_trained_choose_no_heads():
    model = tiny_model("bert")
    board = gate_heads(model, StraightThroughSubset(head_map_of(model), 3))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(ValueError, match="nothing has trained or ranked them"):
        prune_heads(model)
    assert switchboard_of(model) is board  # as it was
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    # scores out of a file were somebody's choice, as far as one can know
    board.load_state_dict(board.state_dict())
    assert prune_heads(model).heads_after == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_its_task_head_loses_heads_too(family):
    """Some of these take `use_cache` and have no cache."""
    model = tiny_model(family).base_model
    keep = torch.arange(head_map_of(model).num_heads) % 2 == 0
    assert prune_heads(model, keep).heads_after == int(keep.sum())
