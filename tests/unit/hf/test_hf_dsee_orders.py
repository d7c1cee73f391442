"""DSEE in every order of its parts: bases that were pruned before, masks that grow, and what is refused."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import tiny_model  # isort: skip

pytest.importorskip("peft")
from hf_dsee import as_trained, outputs  # isort: skip

from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForQuestionAnswering

from dsp_plugin.hf import head_map_of, prune_heads
from dsp_plugin.hf.dsee import (
    GradualPruning,
    add_dsee,
    dsee_of,
    load_dsee,
    mask_updates,
    merge_dsee,
    prune_units,
    prune_weights,
    save_dsee,
)
from dsp_plugin.hf.dsee.layer import dsee_layers
from dsp_plugin.options.errors import OptionError

GROUP = 4


def without(model, *kinds, neurons=None):
    """Take every third unit of these kinds out."""
    head_map = head_map_of(model, neurons=neurons)
    keep = []
    for block in head_map.blocks:
        keep += [block.kind not in kinds or unit % 3 != 0 for unit in range(block.num_heads)]
    prune_heads(model, keep, neurons=neurons)


BEFORE = {
    "whole": lambda model: None,
    "heads": lambda model: without(model, "encoder-self"),
    "neurons": lambda model: without(model, "encoder-ffn", neurons=GROUP),
    "both": lambda model: without(model, "encoder-self", "encoder-ffn", neurons=GROUP),
}
STEPS = {
    "w": lambda model: prune_weights(model, 0.2, 0.2),
    "W": lambda model: prune_weights(model, 0.4, 0.5),
    "m": mask_updates,
    "u": lambda model: prune_units(model, prune_heads_num=1),
    "n": lambda model: prune_units(model, neurons=0.4, group=GROUP),
}


@pytest.mark.parametrize("before, order", list(itertools.product(BEFORE, ["n", "un", "wmW", "wmuW", "nwmW"])))
def test_what_is_live_is_what_is_saved_and_what_is_merged(before, order, tmp_path):
    base = tiny_model("bert")
    BEFORE[before](base)
    model = copy.deepcopy(base)
    add_dsee(model, rank=3, alpha=6, num_sparse=4, seed=1)
    as_trained(model)
    for step in order:
        STEPS[step](model)
    live = outputs(model)
    save_dsee(model, tmp_path / "task.dsee.safetensors")
    load_dsee(base, tmp_path / "task.dsee.safetensors")
    torch.testing.assert_close(outputs(base), live, rtol=0, atol=1e-10)
    torch.testing.assert_close(outputs(merge_dsee(model)), live, rtol=0, atol=1e-10)


@pytest.mark.parametrize("entries", [0, 1, 2, 3, 4, 6, 8])
def test_any_number_of_entries_goes_on_a_pruned_base(entries):
    base = tiny_model("bert")
    BEFORE["heads"](base)
    add_dsee(base, rank=2, num_sparse=entries)
    assert all(len(layer.dsee_values) == entries for layer in dsee_layers(base).values())


def test_gradual_pruning_begins_with_what_is_pruned():
    model = tiny_model("bert")
    add_dsee(model, rank=3, num_sparse=4)
    as_trained(model)
    prune_weights(model, 0.2, 0.0)
    gradual = GradualPruning(model, 0.3, 0.4, "ABS", 0, 6)
    counts = []
    for update in range(1, 7):
        gradual.prune(update)
        counts.append(sum(mask.size - mask.kept for mask in dsee_of(model).masks.values()))
    assert counts == sorted(counts) and counts[0] < counts[-1]
    with pytest.raises(OptionError, match="ad_pruning_ratio is 0.1, and 0.3999 of these weights are pruned"):
        GradualPruning(model, 0.3, 0.1, "ABS", 0, 6)


def test_a_mask_of_nothing_is_refused():
    model = tiny_model("bert")
    add_dsee(model, rank=3, num_sparse=4)
    with pytest.raises(ValueError, match="no weights are pruned"):
        mask_updates(model)
    mask_updates(model, False)


def test_words_are_not_pruned_and_a_merged_update_is_not_pruned_under():
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=40, tie_word_embeddings=False, **sizes))
    add_dsee(model, rank=2, num_sparse=4)
    with torch.no_grad():
        for layer in dsee_layers(model).values():
            layer.lora_B["default"].weight.normal_()
    prune_weights(model, 0.5, 0.5)
    assert bool((model.lm_head.weight != 0).all()) and not any("lm_head" in n for n in dsee_of(model).masks)
    for layer in dsee_layers(model).values():
        layer.merge()
    with pytest.raises(ValueError, match="unmerge"):
        prune_weights(model, 0.6, 0.6)


def test_a_task_head_that_cannot_be_told_is_asked_for():
    sizes = dict(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2)
    model = T5ForQuestionAnswering(T5Config(vocab_size=40, **sizes))
    with pytest.raises(ValueError, match="T5ForQuestionAnswering .* name it in task_head"):
        add_dsee(model, rank=2, num_sparse=4)
    assert "qa_outputs.weight" in add_dsee(model, rank=2, num_sparse=4, task_head=["qa_outputs"]).task_head
    own = torch.nn.Sequential(tiny_model("bert"))
    with pytest.raises(ValueError, match=r"Sequential .* \(an empty list for none\)"):
        add_dsee(own, rank=2, num_sparse=4)


def test_what_is_no_number_ranks_nothing():
    model = tiny_model("bert")
    add_dsee(model, rank=3, num_sparse=4)
    with torch.no_grad():
        for layer in dsee_layers(model).values():
            layer.dsee_values.fill_(1.0)
    with pytest.raises(ValueError, match="ranks no weights"):  # B is 0
        prune_weights(model, 0.2, 0.2, "AB")
    as_trained(model)
    groups = head_map_of(tiny_model("bert"), neurons=GROUP, heads=False).num_heads
    scores = torch.full((groups,), float("nan"))
    with pytest.raises(ValueError, match="not all numbers"):
        prune_units(model, neurons=0.4, group=GROUP, neuron_scores=scores)
    with torch.no_grad():
        next(iter(dsee_layers(model).values())).lora_B["default"].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not all numbers"):
        prune_units(model, prune_heads_num=1)
