"""Families of other layouts: heads closed by hand, gated, removed and read from a file are the same, to
rounding.
"""

from __future__ import annotations

import dsp_plugin.hf  # noqa: F401  (first: it hides a torchaudio that cannot be loaded)  isort: skip

import copy

import pytest
import torch
from hf_models import MORE, SINGLE, tiny_model, uneven_mask

from dsp_plugin.gating import FixedGates
from dsp_plugin.hf import (
    fill_heads,
    gate_heads,
    head_map_of,
    load_pruned,
    prune_heads,
    save_pruned,
    ungate_heads,
)
from dsp_plugin.hf.heads.layouts.locate import attentions_of

NORMS_IN_SINGLE = ("qwen3",)


def model_of(family):
    return tiny_model(family, dtype=torch.float32 if family in SINGLE else torch.float64)


def outputs(model):
    """The model's outputs for padded sequences, and for one token more of each, with a cache, where it has
    one.
    """
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, 40, (3, 7), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    longer = {"input_ids": ids[:, :1], "attention_mask": torch.cat([mask, mask[:, -1:]], dim=1)}
    if model.config.model_type == "whisper":
        sound = torch.randn(3, 8, 32, generator=generator).to(model.dtype)
        batch = {"input_features": sound, "decoder_input_ids": ids}
        longer = {"input_features": sound, "decoder_input_ids": ids[:, :1]}
    with torch.no_grad():
        first = model(**batch)
        if first.get("past_key_values") is None:
            return [first.logits]
        return [first.logits, model(**longer, past_key_values=first.past_key_values).logits]


def close_by_hand(model, keep):
    """A stock copy whose output projections have zeros in the columns of the heads that are not kept."""
    copied, start = copy.deepcopy(model), 0
    for attention in attentions_of(copied):
        heads = attention.block.num_heads
        kept = keep[start : start + heads].repeat_interleave(attention.output.unit)
        attention.output.module.weight.data *= kept
        start += heads
    return copied


@pytest.mark.parametrize("family", MORE)
def test_closed_gated_removed_and_reloaded_are_the_same(family, tmp_path):
    model = model_of(family)
    heads = head_map_of(model)
    keep = uneven_mask(heads.num_heads, [block.num_heads for block in heads.blocks])
    stock, wanted = outputs(model), outputs(close_by_hand(model, keep))
    tolerance = 1e-5 if family in (*SINGLE, *NORMS_IN_SINGLE) else 1e-11

    def same(found, expected=wanted):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=tolerance)

    assert all((one - other).abs().max() > 0.05 for one, other in zip(stock, wanted))  # the heads count
    gate_heads(model, FixedGates(keep))
    model.eval()
    same(outputs(model))
    ungate_heads(model)
    same(outputs(model), stock)
    prune_heads(model, keep)
    same(outputs(model))
    assert [block.num_heads for block in head_map_of(model).blocks][1] == 0
    save_pruned(model, tmp_path)
    same(outputs(load_pruned(tmp_path).to(model.dtype)))
    same(outputs(copy.deepcopy(model)))
    left = head_map_of(model).num_heads
    again = torch.arange(left) % 2 == 0
    closed = outputs(close_by_hand(model, again))
    prune_heads(model, again)  # what is left of it is cut again
    same(outputs(model), closed)
    fill_heads(model)
    assert head_map_of(model) == heads
    same(outputs(model), closed)
