"""The record of kept heads is read off the modules, and lies in configurations that are the model's own."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import FAMILIES, batch_of, logits, tiny_model  # isort: skip
from torch import nn
from transformers import BertForSequenceClassification, BertModel, CLIPConfig, CLIPModel

from dsp_plugin.gating import FixedGates
from dsp_plugin.hf import (
    fill_heads,
    gate_heads,
    head_map_of,
    load_pruned,
    prune_heads,
    record_of,
    save_pruned,
)

KEEP = [True, False, True, True] * 2
HALF = {"encoder.layer.0.attention": [0, 2, 3], "encoder.layer.1.attention": [0, 2, 3]}


def test_models_that_share_a_configuration_are_pruned_each_for_itself():
    one = tiny_model("bert")
    two = BertForSequenceClassification(one.config).double().eval()
    config, before = one.config, one.config.to_dict()
    assert two.config is config and two.bert.config is config
    batch = batch_of(two)
    expected = logits(two, batch)
    gate_heads(two, FixedGates(torch.ones(8)))
    prune_heads(one, [False] * 8)
    assert record_of(one) == {name: [] for name in HALF} == one.config.kept_heads
    assert record_of(two) is None and not hasattr(config, "kept_heads") and config.to_dict() == before
    assert torch.equal(logits(two, batch), expected)
    prune_heads(two, KEEP)
    assert record_of(two) == HALF and record_of(one) != HALF
    fill_heads(one)
    assert record_of(one) is None and two.config.kept_heads == HALF == record_of(two)


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_that_shared_a_configuration_share_the_new_one(family):
    model = tiny_model(family)
    before = [(path, id(part.config)) for path, part in model.named_modules() if hasattr(part, "config")]
    old = {id(part.config) for part in model.modules() if hasattr(part, "config")}
    prune_heads(model, [True, False] * (head_map_of(model).num_heads // 2), check=False)
    after = [(path, id(part.config)) for path, part in model.named_modules() if hasattr(part, "config")]
    assert len(set(dict(before).values())) == len(set(dict(after).values()))
    pairs = {(one, two) for (_, one), (_, two) in zip(before, after)}
    assert len(pairs) == len(old) and not old & set(dict(after).values())


def test_a_configuration_that_says_something_else_is_not_believed():
    model = tiny_model("bert")
    model.config.kept_heads = {name: [0] for name in HALF}  # left there by another model
    assert record_of(model) is None
    prune_heads(model, KEEP)
    assert record_of(model) == HALF == model.config.kept_heads
    del model.config.kept_heads
    assert record_of(model) == HALF == record_of(copy.deepcopy(model))


def test_an_inner_model_that_was_pruned_is_known_outside_and_saved(tmp_path):
    model = tiny_model("bert")
    outside = model.config
    prune_heads(model.bert, KEEP)
    assert record_of(model) == record_of(model.bert) == HALF and model.config is outside
    prune_heads(model.bert, [True, True, False] * 2)
    save_pruned(model, tmp_path)
    # not said of what may be others', too
    assert model.config is outside and not hasattr(outside, "kept_heads")
    again = load_pruned(tmp_path, dtype=torch.float64)
    assert record_of(again) == {name: [0, 2] for name in HALF}
    batch = batch_of(model)
    torch.testing.assert_close(logits(again, batch), logits(model, batch), rtol=0, atol=1e-10)


def test_names_are_those_of_the_model_that_is_asked():
    model = tiny_model("bart")
    prune_heads(model.model.encoder, KEEP)
    inner, outer, whole = record_of(model.model.encoder), record_of(model), record_of(nn.ModuleList([model]))
    assert inner == {"layers.0.self_attn": [0, 2, 3], "layers.1.self_attn": [0, 2, 3]}
    assert outer["encoder.layers.0.self_attn"] == [0, 2, 3] and outer["decoder.layers.1.self_attn"] == [0, 1]
    assert whole["0.model.encoder.layers.1.self_attn"] == [0, 2, 3]
    assert all(
        list(record) == [b.name for b in head_map_of(m).blocks]
        for record, m in ((inner, model.model.encoder), (outer, model))
    )


def clip():
    torch.manual_seed(0)
    size = dict(
        hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, projection_dim=16
    )
    text = dict(
        size, vocab_size=40, max_position_embeddings=20, bos_token_id=0, eos_token_id=2, pad_token_id=1
    )
    return CLIPModel(
        CLIPConfig(text_config=text, vision_config=dict(size, image_size=8, patch_size=4), projection_dim=16)
    ).double()


def test_configurations_of_parts_hold_the_records_of_these_parts(tmp_path):
    model = clip()
    keep = [True, False, True, True] * 4
    prune_heads(model, keep)
    assert (
        model.config.text_config is model.text_model.config
        and model.config.vision_config is model.vision_model.config
    )
    for part in (model, model.text_model, model.vision_model):
        assert part.config.kept_heads == record_of(part)
    save_pruned(model, tmp_path)
    again = load_pruned(tmp_path, dtype=torch.float64)
    assert record_of(again) == record_of(model)
    fill_heads(again)
    assert not any(
        hasattr(part.config, "kept_heads") for part in (again, again.text_model, again.vision_model)
    )


def test_gates_of_parts_say_which_heads_of_the_whole_stay():
    model = nn.ModuleDict({"one": tiny_model("bert"), "two": BertModel(tiny_model("bert").config).double()})
    gate_heads(model["one"].bert, FixedGates(torch.tensor(KEEP)))
    assert prune_heads(model).heads_after == 6 + 8  # the second has no gates: all its heads stay
    assert record_of(model)["one.bert.encoder.layer.0.attention"] == [0, 2, 3]
    gate_heads(model["two"], FixedGates(torch.tensor([False] * 8)))
    gate_heads(model["one"], FixedGates(torch.tensor([True, True, False] * 2)))
    assert prune_heads(model).heads_after == 4
    assert record_of(model["one"]) == {name: [0, 2] for name in HALF}


def test_gates_of_a_larger_model_are_not_cut_off_by_a_part():
    model = tiny_model("bert")
    gate_heads(model, FixedGates(torch.tensor(KEEP)))
    for keep in (None, KEEP):
        with pytest.raises(
            ValueError, match="BertModel were put on a larger model.*BertForSequenceClassification"
        ):
            prune_heads(model.bert, keep)
    assert record_of(model) is None and prune_heads(model).heads_after == 6


def test_a_part_of_which_some_gates_are_its_own_and_undecided():
    from dsp_plugin.gating import StraightThroughSubset

    model = nn.ModuleDict({"one": tiny_model("bert"), "two": tiny_model("gpt2")})
    gate_heads(model["one"], FixedGates(torch.tensor(KEEP)))
    gate_heads(model["two"], StraightThroughSubset(head_map_of(model["two"]), 3))
    with pytest.raises(ValueError, match="nothing has trained or ranked them"):
        prune_heads(model)
    assert record_of(model) is None
