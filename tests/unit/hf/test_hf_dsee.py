"""DSEE on Transformers: merged = unmerged = reloaded, pruned weights zero, units cut with the update."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import batch_of, logits, tiny_model  # isort: skip

pytest.importorskip("peft")
from hf_dsee import SMALL, as_trained, close, outputs, with_update  # isort: skip

from dsp_plugin.dsee import DseeFile, LowRankSparse
from dsp_plugin.dsee.supports import find_support
from dsp_plugin.hf import head_map_of, prune_heads
from dsp_plugin.hf.dsee import (
    add_dsee,
    dsee_of,
    has_dsee,
    kept_of,
    load_dsee,
    mask_updates,
    merge_dsee,
    prune_units,
    prune_weights,
    save_dsee,
    score_heads,
)
from dsp_plugin.hf.dsee.layer import dsee_layers
from dsp_plugin.options.errors import OptionError

FAMILIES = ("bert", "roberta", "deberta-v2", "deberta-v3", "gpt2")
MORE = ("distilbert", "albert", "llama", "bart", "t5", "modernbert")
families = pytest.mark.parametrize("family", FAMILIES)


def dense_weights(base, model, masked=False):
    """A copy of the base with s (B A + S2) put into its matrices by hand; S1 as `masked` says."""
    dense, state = copy.deepcopy(base), dsee_of(model)
    modules = dict(dense.named_modules())
    with torch.no_grad():
        for name, mask in state.masks.items():
            modules[name.removesuffix(".weight")].weight.mul_(mask.mask())
        for path, layer in dsee_layers(model).items():
            change = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
            entries = zip(layer.dsee_rows.tolist(), layer.dsee_columns.tolist(), layer.dsee_values)
            for row, column, value in entries:
                change[row, column] += value
            weight = modules[path].weight
            change = 2.0 * (change.T if is_conv(modules[path]) else change)
            mask = state.masks.get(f"{path}.weight")
            weight.add_(change * mask.mask() if masked and mask is not None else change)
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name in state.task_head:
            dense.get_parameter(name).copy_(own[name])
    return dense


def is_conv(module):
    return type(module).__name__ == "Conv1D"


@pytest.mark.parametrize("family", FAMILIES + MORE)
def test_an_update_begins_at_nothing_and_is_the_dense_one(family):
    base, model = tiny_model(family), tiny_model(family)
    add_dsee(model, **SMALL)
    close(outputs(model), outputs(base), family)
    as_trained(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    kinds = ("lora_A.default.weight", "lora_B.default.weight", "dsee_values")
    assert {name for name in trained if not name.endswith(kinds)} == set(dsee_of(model).task_head)
    assert (outputs(model) - outputs(base)).abs().max() > 1e-3
    close(outputs(model), outputs(dense_weights(base, model)), family)
    for layer in dsee_layers(model).values():
        parts = next(t.parts for t in dsee_of(model).targets if t.weight.startswith(layer_path(model, layer)))
        assert len(layer.dsee_values) == 5 * len(parts)


def layer_path(model, layer):
    return next(path for path, module in model.named_modules() if module is layer) + "."


@families
def test_merged_is_unmerged_is_reloaded(family, tmp_path):
    base, model = with_update(family)
    expected = outputs(model)
    save_dsee(model, tmp_path / "task.dsee.safetensors")
    again = copy.deepcopy(base)
    load_dsee(again, tmp_path / "task.dsee.safetensors")
    close(outputs(again), expected)
    assert dsee_of(again).targets == dsee_of(model).targets
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    for one in (model, again):
        merged = merge_dsee(one)
        close(outputs(merged), expected)
        assert not has_dsee(merged) and not dsee_layers(merged)
        assert set(dict(merged.named_parameters())) == set(dict(base.named_parameters()))
    merged.save_pretrained(tmp_path / "merged")
    loaded = type(base).from_pretrained(tmp_path / "merged", dtype=torch.float64)
    close(outputs(loaded.eval()), expected)


@families
def test_pruned_weights_are_exactly_zero_and_masked_merge_is_what_masked_updates_compute(family, tmp_path):
    base, model = with_update(family)
    figures = prune_weights(model, 0.3, 0.4, "ABS")
    state = dsee_of(model)
    gone = sum(int((~mask.mask()).sum()) for mask in state.masks.values())
    assert figures["pruned"] == gone
    modules = dict(model.named_modules())
    for name, mask in state.masks.items():
        module = modules[name.removesuffix(".weight")]
        weight = getattr(module, "base_layer", module).weight
        assert not weight[~mask.mask()].any()
        before = base.get_parameter(name)
        assert torch.equal(weight[mask.mask()], before[mask.mask()])
    close(outputs(model), outputs(dense_weights(base, model)))
    unmasked = outputs(model)
    mask_updates(model)
    masked = outputs(model)
    close(masked, outputs(dense_weights(base, model, masked=True)))
    assert (masked - unmasked).abs().max() > 1e-6
    save_dsee(model, tmp_path / "task.dsee.safetensors")
    again = copy.deepcopy(base)
    load_dsee(again, tmp_path / "task.dsee.safetensors")
    close(outputs(again), masked)
    mask_updates(again, False)
    close(outputs(again), unmasked)
    assert dsee_of(again).masks == state.masks
    for under, expected in ((True, masked), (False, unmasked)):
        merged = merge_dsee(copy.deepcopy(again), masked=under)
        close(outputs(merged), expected)
        zeros = sum(int((merged.get_parameter(name) == 0).sum()) for name in state.masks)
        assert zeros == gone if under else zeros < gone
    close(outputs(merge_dsee(model)), masked)  # it goes by what the model computes now


def test_the_two_groups_of_s1_by_a_dense_reference():
    base, model = with_update("bert")
    prune_weights(model, 0.25, 0.5, "WABS")
    masks = dsee_of(model).masks
    groups, changed = {True: {}, False: {}}, dense_weights(base, with_no_mask(model))
    for name in dict(base.named_parameters()):
        if name.endswith("weight") and base.get_parameter(name).dim() == 2:
            if "embeddings" in name or "classifier" in name:
                assert name not in masks
                continue
            adapted = ".query." in name or ".value." in name
            groups[adapted][name] = (changed if adapted else base).get_parameter(name)
    assert any("pooler" in name for name in groups[False]) and len(groups[True]) == 4
    for adapted, ratio in ((False, 0.25), (True, 0.5)):
        scores = torch.cat([weight.detach().abs().flatten() for weight in groups[adapted].values()])
        left = torch.cat([masks[name].mask().flatten() for name in groups[adapted]])
        assert int((~left).sum()) == int(ratio * len(left) + 0.5)
        assert scores[~left].max() <= scores[left].min()


def with_no_mask(model):
    other = copy.deepcopy(model)
    dsee_of(other).masks = {}
    return other


def test_the_key_of_gpt2_s_joint_matrix_is_left_alone():
    base, model = with_update("gpt2")
    layer = next(iter(dsee_layers(model).values()))
    size = layer.out_features // 3
    assert layer.down.shape == (3, size) and layer.up.shape == (3 * size, 3)
    model.train()
    logits(model, batch_of(model)).square().mean().backward()
    gradient = layer.lora_B["default"].weight.grad
    assert not gradient[size : 2 * size].any() and gradient[:size].any() and gradient[2 * size :].any()
    rows = layer.dsee_rows.tolist()
    assert all(row < size or row >= 2 * size for row in rows)
    merged = merge_dsee(model)
    key = slice(size, 2 * size)
    name = "transformer.h.0.attn.c_attn.weight"
    assert torch.equal(merged.get_parameter(name)[:, key], base.get_parameter(name)[:, key])


def test_training_moves_the_update_alone_and_keeps_zeros():
    _, model = with_update("bert")
    prune_weights(model, 0.3, 0.3)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        logits(model, batch_of(model)).square().mean().backward()
        optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, mask in dsee_of(model).masks.items():
        module = dict(model.named_modules())[name.removesuffix(".weight")]
        assert not getattr(module, "base_layer", module).weight[~mask.mask()].any()


@pytest.mark.parametrize("family", [*FAMILIES, "llama", "bart"])
def test_units_go_with_their_part_of_the_update(family, tmp_path):
    base, model = with_update(family)
    prune_weights(model, 0.2, 0.2)
    scores = score_heads(model)
    lowest = {name: int(values.argmin()) for name, values in scores.items()}
    with torch.no_grad():  # the same heads out of the merged model
        merged = merge_dsee(copy.deepcopy(model))
    keep = [
        head != lowest[block.name] for block in head_map_of(merged).blocks for head in range(block.num_heads)
    ]
    prune_heads(merged, keep, check=False)
    removal = prune_units(model, prune_heads_num=1)
    assert removal.heads_before - removal.heads_after == len(scores)
    assert all(lowest[name] not in numbers for name, numbers in removal.kept_heads.items())
    expected = outputs(merged)
    close(outputs(model), expected, family)
    save_dsee(model, tmp_path / "task.dsee.safetensors")
    stored = DseeFile.load(tmp_path / "task.dsee.safetensors")
    assert stored.kept == kept_of(model)
    again = copy.deepcopy(base)
    load_dsee(again, tmp_path / "task.dsee.safetensors")
    close(outputs(again), expected, family)
    assert dsee_of(again).masks == dsee_of(model).masks and kept_of(again) == kept_of(model)
    if family == "bart":  # of two heads
        with pytest.raises(OptionError, match="leaves nothing"):
            prune_units(again, prune_heads_num=1)
        return
    prune_units(again, prune_heads_num=1)  # a second time, from the file on
    save_dsee(again, tmp_path / "second.dsee.safetensors")
    third = copy.deepcopy(base)
    load_dsee(third, tmp_path / "second.dsee.safetensors")
    close(outputs(third), outputs(again), family)
    close(outputs(merge_dsee(third)), outputs(again), family)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "gpt2"])
def test_groups_of_neurons_go_beside_heads(family, tmp_path):
    base, model = with_update(family, targets=("query", "value", "output"))
    prune_weights(model, 0.2, 0.2)
    with torch.no_grad():
        merged = merge_dsee(copy.deepcopy(model))
    lowest = {name: int(values.argmin()) for name, values in score_heads(model).items()}
    blocks = head_map_of(merged, neurons=4).blocks
    counts = [block.num_heads for block in blocks if block.kind.endswith("ffn")]
    scores = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(0)).double()
    left = [part >= part.sort().values[int(0.4 * len(part) + 0.5)] for part in scores.split(counts)]
    keep = [h != lowest[b.name] for b in blocks if b.name in lowest for h in range(b.num_heads)]
    prune_heads(merged, keep + torch.cat(left).tolist(), check=False, neurons=4)
    prune_units(model, prune_heads_num=1, neurons=0.4, group=4, neuron_scores=scores)
    expected = outputs(merged)
    close(outputs(model), expected)
    save_dsee(model, tmp_path / "task.dsee.safetensors")
    again = copy.deepcopy(base)
    load_dsee(again, tmp_path / "task.dsee.safetensors")
    close(outputs(again), expected)
    prune_units(again, neurons=0.2, group=4)  # by size, from the file on
    save_dsee(again, tmp_path / "second.dsee.safetensors")
    load_dsee(base, tmp_path / "second.dsee.safetensors")
    close(outputs(base), outputs(again))
    assert kept_of(base) == kept_of(again)


def test_head_scores_are_the_formula():
    _, model = with_update("bert")
    found = score_heads(model, "WABS")
    layers = dsee_layers(model)
    for number, values in enumerate(found.values()):
        total = torch.zeros(4, dtype=torch.float64)
        for role in ("query", "value"):
            layer = layers[f"bert.encoder.layer.{number}.attention.self.{role}"]
            change = layer.up @ layer.down
            for row, column, value in zip(layer.dsee_rows, layer.dsee_columns, layer.dsee_values):
                change[row, column] += value
            total += (change.abs() + layer.base_layer.weight.abs()).view(4, 8, 32).sum((1, 2)).detach()
        torch.testing.assert_close(values, total)


def test_a_base_that_was_pruned_before_is_a_base(tmp_path):
    base = tiny_model("bert")
    prune_heads(base, {0: [1], 1: [0, 2]})
    model = copy.deepcopy(base)
    add_dsee(model, **SMALL)
    as_trained(model)
    prune_units(model, prune_heads_num=1)
    save_dsee(model, tmp_path / "task.dsee.safetensors")
    again = copy.deepcopy(base)
    load_dsee(again, tmp_path / "task.dsee.safetensors")
    close(outputs(again), outputs(model))
    assert kept_of(again) == kept_of(model)


def test_a_lora_of_the_core_is_peft_s():
    base, model = with_update("bert", num_sparse=0)
    for path, layer in dsee_layers(model).items():
        module = base.get_submodule(path)
        own = LowRankSparse(tuple(module.weight.shape), 3, 6).double()
        with torch.no_grad():
            own.down.copy_(layer.lora_A["default"].weight)
            own.up.copy_(layer.lora_B["default"].weight)
        x = torch.randn(4, 7, module.in_features, dtype=torch.float64)
        from peft.tuners.lora.layer import Linear

        close(own(module(x).detach(), x), Linear.forward(layer, x))


def test_supports_are_those_of_the_frozen_matrix():
    base, model = with_update("bert", sparse_method="omp")
    for path, layer in dsee_layers(model).items():
        weight = base.get_submodule(path).weight
        assert torch.equal(layer.update().positions, find_support(weight, 5, "omp"))
    one, two = (with_update("bert", sparse_method="rp", seed=seed)[1] for seed in (1, 2))
    supports = [[layer.update().positions for layer in dsee_layers(m).values()] for m in (one, two)]
    assert not any(torch.equal(a, b) for a, b in zip(*supports))
    assert not torch.equal(supports[0][0], supports[0][1])


def test_peft_s_own_ways_know_of_s2():
    base, model = with_update("bert")
    expected = outputs(model)
    layers = dsee_layers(model).values()
    for layer in layers:
        layer.merge()
    close(outputs(model), expected)
    with pytest.raises(ValueError, match="unmerge"):
        merge_dsee(model)
    for layer in layers:
        layer.unmerge()
    close(outputs(model), expected)
    for layer in layers:
        layer.enable_adapters(False)
    with torch.no_grad():
        model.classifier.weight.copy_(base.classifier.weight)
        model.classifier.bias.copy_(base.classifier.bias)
    close(outputs(model), outputs(base))


class OwnModule(torch.nn.Module):
    """A user's own module around a Transformers model, with a task head of its own."""

    def __init__(self):
        super().__init__()
        self.encoder = tiny_model("bert").bert
        self.scorer = torch.nn.Linear(32, 1).double()

    def forward(self, **inputs):
        return self.scorer(self.encoder(**inputs).last_hidden_state[:, 0])


def test_a_module_of_a_user_s_own(tmp_path):
    torch.manual_seed(0)
    base = OwnModule()
    model, batch = copy.deepcopy(base), batch_of(tiny_model("bert"))
    add_dsee(model, **SMALL, task_head=["scorer"])
    as_trained(model)
    prune_units(model, prune_heads_num=1)
    prune_weights(model, 0.2, 0.2)
    save_dsee(model, tmp_path / "task.dsee.safetensors")
    load_dsee(base, tmp_path / "task.dsee.safetensors")
    with torch.no_grad():
        close(base(**batch), model(**batch))
        close(merge_dsee(base)(**batch), model(**batch))


def test_what_fails_midway_leaves_the_model_as_it_was(monkeypatch):
    _, model = with_update("bert")
    expected, names = outputs(model), set(model.state_dict())
    monkeypatch.setattr("dsp_plugin.hf.heads.surgery.pruning.write_record", lambda model: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prune_units(model, prune_heads_num=1)
    close(outputs(model), expected)
    assert set(model.state_dict()) == names and kept_of(model) is None


def test_half_precision_and_autocast_run():
    model = tiny_model("bert", dtype=torch.float32)
    add_dsee(model, **SMALL)
    as_trained(model)
    batch = batch_of(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = logits(model.train(), batch).float().square().mean()
    loss.backward()
    for layer in dsee_layers(model).values():
        assert layer.dsee_values.grad.dtype == torch.float32 and layer.dsee_values.grad.abs().sum() > 0
    half = tiny_model("bert", dtype=torch.bfloat16)
    add_dsee(half, **SMALL)
    logits(half.train(), batch).float().square().mean().backward()
