"""A decoder whose first block has lost all its heads: the cache must still know how long it is."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")

from hf_models import DECODERS, batch_of, tiny_model

from dsp_plugin.hf import fill_heads, head_map_of, prune_heads


def without_first_block(family):
    """(model with all heads, the same without the heads of its first self-attending decoder block)"""
    whole = tiny_model(family)
    heads = head_map_of(whole)
    keep = torch.ones(heads.num_heads, dtype=torch.bool)
    keep[slice(*heads.range(next(block.name for block in heads.blocks if block.kind == "decoder-self")))] = (
        False
    )
    pruned = copy.deepcopy(whole)
    prune_heads(pruned, keep)
    return whole, pruned


@torch.no_grad()
def by_steps(model, batch):
    """Logits [B, 2, V] of the last two tokens, each from a forward pass of its own after a cache."""
    name = "decoder_input_ids" if model.config.is_encoder_decoder else "input_ids"
    ids, cache, steps = batch[name], None, []
    for start, end in ((0, -2), (-2, -1), (-1, None)):
        inputs = {**batch, name: ids[:, start:end]}
        if not model.config.is_encoder_decoder:
            inputs["attention_mask"] = batch["attention_mask"][:, :end]
        output = model(**inputs, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        steps.append(output.logits[:, -1])
    assert cache.get_seq_length() == ids.shape[1]
    return torch.stack(steps[1:], dim=1)


@pytest.mark.parametrize("family", DECODERS)
def test_steps_with_a_cache_are_those_of_one_pass(family):
    whole, pruned = without_first_block(family)
    batch = batch_of(pruned, size=2)
    with torch.no_grad():
        expected = pruned(**batch).logits[:, -2:]
        assert not torch.allclose(expected, whole(**batch).logits[:, -2:])
    for model in (pruned, copy.deepcopy(pruned)):
        torch.testing.assert_close(by_steps(model, batch), expected, rtol=0, atol=1e-5)
    search = {"max_new_tokens": 5, "do_sample": False, "num_beams": 2}
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    expected = pruned.generate(**source, **search, use_cache=False)
    assert pruned.generate(**source, **search).tolist() == expected.tolist()


def test_a_model_that_is_filled_again_has_no_trace_of_it():
    _, pruned = without_first_block("bart")
    fill_heads(pruned)
    assert not any(
        module._forward_hooks or module._forward_hooks_with_kwargs
        for module in pruned.model.decoder.modules()
    )
