"""Surgery is all or nothing: whatever happens in the middle of it, the model is what it was."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import FAMILIES, batch_of, logits, tiny_model, uneven_mask  # isort: skip
from hf_pictures import picture, same

import dsp_plugin.hf
from dsp_plugin.gating import FixedGates
from dsp_plugin.hf import fill_heads, gate_heads, head_map_of, prune_heads
from dsp_plugin.hf.heads.surgery.pruning import check_pruned, check_surgery

FOLDER = str(Path(dsp_plugin.hf.__file__).parent)
# a failure is put before every line of these; the lines that put things back are not among them
FILES = {
    "pruning.py",
    "slices.py",
    "kept_heads.py",
    "gating.py",
    "frames.py",
    "heads_link.py",
    "empty_cache.py",
    "interface.py",
}


def with_failure(step, run):
    """Runs `run`, and raises a KeyboardInterrupt before its line `step`. Returns the lines that were run."""
    lines = 0

    def trace(frame, event, argument):
        nonlocal lines
        folder, _, name = frame.f_code.co_filename.rpartition("/")
        if not folder.startswith(FOLDER) or name not in FILES:
            return None
        if event == "line":
            lines += 1
            if lines == step:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return lines


def mask_of(model):
    blocks = [block.num_heads for block in head_map_of(model).blocks]
    return uneven_mask(sum(blocks), blocks)


def gated(family):
    model = tiny_model(family)
    gate_heads(model, FixedGates(mask_of(model)))
    return model


def pruned(family):
    model = tiny_model(family)
    prune_heads(model, mask_of(model), check=False)
    return model


@pytest.mark.parametrize(
    "family, make", [("bert", gated), ("gpt2", gated), ("t5", gated), ("gpt2", tiny_model), ("bart", pruned)]
)
def test_an_interruption_at_any_step_leaves_the_model_as_it_was(family, make):
    other = make(family)
    keep = None if make is gated else [head % 2 == 0 for head in range(head_map_of(other).num_heads)]
    steps = with_failure(-1, lambda: prune_heads(other, keep, check=False))
    model = make(family)
    before = picture(model)
    chosen = random.Random(0).sample(range(1, steps + 1), 40) + list(range(steps - 10, steps + 1))
    for step in chosen:
        with pytest.raises(KeyboardInterrupt):
            with_failure(step, lambda: prune_heads(model, keep, check=False))
        assert same(picture(model), before), step
    prune_heads(model, keep)
    assert not same(picture(model), before)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_an_interruption_of_filling_up_leaves_the_model_pruned(family):
    model = pruned(family)
    before = picture(model)
    other = pruned(family)
    steps = with_failure(-1, lambda: fill_heads(other))
    for step in random.Random(1).sample(range(1, steps + 1), 30):
        with pytest.raises(KeyboardInterrupt):
            with_failure(step, lambda: fill_heads(model))
        assert same(picture(model), before), step


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("make", [gated, tiny_model])
def test_a_look_leaves_no_trace(family, make):
    model = make(family).train()
    model.get_input_embeddings().weight.requires_grad_(False)
    keep = mask_of(tiny_model(family))
    before = picture(model)
    check_surgery(model)
    check_surgery(model, keep)
    assert same(picture(model), before)
    prune_heads(model, keep)
    before = picture(model)
    check_pruned(model)
    assert same(picture(model), before)
    assert all(module.training for module in model.modules())
    assert not model.get_input_embeddings().weight.requires_grad


def test_a_pruned_model_that_differs_is_put_back(monkeypatch):
    """The rows of one head are taken for those of another: the look sees it, and gates and all are as
    before.
    """
    from dsp_plugin.hf.heads.surgery import pruning, slices

    def wrong(attentions, kept):
        slices.cut(attentions, {**kept, "encoder.layer.0.attention": [1, 3]})

    model = tiny_model("bert")
    gate_heads(model, FixedGates(torch.tensor([0, 1, 1, 0, 1, 1, 1, 1])))
    batch = batch_of(model)
    expected, before = logits(model, batch), picture(model)
    monkeypatch.setattr(pruning, "cut", wrong)
    with pytest.raises(
        ValueError, match="BertForSequenceClassification .*encoder.layer.0.attention differs by"
    ):
        prune_heads(model)
    assert same(picture(model), before)
    assert torch.equal(logits(model, batch), expected)


def test_a_model_that_fails_after_the_cut_is_put_back(monkeypatch):
    model = tiny_model("gpt2")
    # GPT-2 splits by an integer of its own
    monkeypatch.setattr("dsp_plugin.hf.heads.surgery.slices._set_sizes", lambda attention, heads: None)
    before = picture(model)
    with pytest.raises(
        ValueError, match=r"GPT2LMHeadModel does not run without .* fails at h\.0\.attn \(RuntimeError"
    ):
        prune_heads(model, [True, True, True, False] * 2)
    assert same(picture(model), before)
