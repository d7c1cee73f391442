"""Surgery on tiny translation models: masked == pruned == exported, in float64, and the bookkeeping around
it.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
import torch

fairseq = pytest.importorskip("fairseq")

import tiny_models as tiny

from dsp_plugin.mt.checkpoints.built_in_types import to_built_in_types
from dsp_plugin.mt.heads.checkpoint_heads import random_scores
from dsp_plugin.mt.heads.gated_transformer import head_map_of
from dsp_plugin.mt.surgery.pruning import prepare, prune_state
from dsp_plugin.mt.surgery.stock_export import export_fairseq
from dsp_plugin.surgery import read_mask

N = tiny.N


@pytest.fixture(autouse=True)
def double_softmax(monkeypatch):
    """Stock attention works its softmax out in single precision wherever it is not fused."""
    monkeypatch.setattr(fairseq.utils, "softmax", lambda x, dim, onnx_trace=False: torch.softmax(x, dim))


# encoder-self 2 + 2, decoder-cross 3 + 3, decoder-self 3 + 3: uneven, two blocks with no head, two with all
UNEVEN = [1, 0] + [0, 0] + [0, 0, 0] + [1, 1, 1] + [0, 1, 0] + [1, 1, 1]


def first(k: int) -> list[bool]:
    """K heads spread over the model."""
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2)).tolist()
    return [head in order[:k] for head in range(N)]


MASKS = {
    "K=0": first(0),
    "K=1": first(1),
    "K=N/4": first(4),
    "K=N/2": first(8),
    "K=N": first(N),
    "uneven": UNEVEN,
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_pruned_computes_what_masked_does(mask):
    mask = [bool(flag) for flag in mask]
    state = tiny.checkpoint(tiny.build(tiny.options()), tiny.options())
    pruned = prune_state(state, mask=mask)
    model = tiny.load(pruned.state)
    tiny.assert_same(model, tiny.masked(mask))
    assert pruned.keep.tolist() == mask
    assert head_map_of(model).num_heads == sum(mask)
    assert pruned.parameters_before == sum(p.numel() for p in tiny.build(tiny.options()).parameters())
    assert pruned.parameters_after == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_exported_is_stock_and_computes_what_masked_does(mask):
    mask = [bool(flag) for flag in mask]
    state = tiny.checkpoint(tiny.build(tiny.options()), tiny.options())
    exported = export_fairseq(state, mask=mask)
    stock = tiny.load(exported.state)
    assert type(stock).__module__.startswith("fairseq.")
    tiny.assert_same(stock, tiny.masked(mask))
    again = export_fairseq(prune_state(state, mask=mask).state)
    assert all(
        torch.equal(again.state["model"][name], tensor) for name, tensor in exported.state["model"].items()
    )
    assert again.state["cfg"] == exported.state["cfg"]


def test_a_block_without_heads_keeps_its_output_bias_alone():
    state = tiny.checkpoint(tiny.build(tiny.options()), tiny.options())
    names = [name for name in prune_state(state, mask=[False] * N).state["model"] if "attn." in name]
    assert len(names) == 6 and all(name.endswith("attn.out_proj.bias") for name in names)


@pytest.mark.parametrize("k, override", [(5, None), (5, 0), (5, 3), (5, N)])
def test_scores_choose_the_heads(k, override):
    settings = tiny.options(num_of_heads=k, joint_pruning=True, annealing=True)
    model = tiny.build(settings)
    scores = model.gating.gates.scores.detach()
    best = set(sorted(range(N), key=lambda head: -float(scores[head]))[: k if override is None else override])
    pruned = prune_state(tiny.checkpoint(model, settings), override)
    assert pruned.keep.tolist() == [head in best for head in range(N)]
    options = pruned.state["cfg"]["model"]
    assert options["num_of_heads"] is None and not options["joint_pruning"] and not options["annealing"]
    assert json.loads(options["kept_heads"]) == pruned.record
    assert "last_optimizer_state" not in pruned.state
    assert not any(name.startswith("gating") for name in pruned.state["model"])
    small = tiny.load(pruned.state)
    assert small.gating is None
    if override is None:
        tiny.assert_same(small, model)


def test_pruning_again_counts_in_the_original_heads():
    settings = tiny.options(num_of_heads=8, joint_pruning=True)
    once = prune_state(tiny.checkpoint(tiny.build(settings), settings))
    # new gates on what is left, as a training with --num-of-heads on the pruned checkpoint makes them
    regated = {**once.state["cfg"]["model"], "num_of_heads": 3, "joint_pruning": True}
    model = tiny.build(regated)
    assert model.gating.gates.scores.numel() == 8
    twice = prune_state(tiny.checkpoint(model, regated))
    assert twice.heads_before == 8 and int(twice.keep.sum()) == 3 and len(twice.keep) == N
    assert not (twice.keep & ~once.keep).any()
    left = torch.nonzero(once.keep).flatten()[model.gating.gates.keep()]
    assert torch.nonzero(twice.keep).flatten().tolist() == left.tolist()
    tiny.assert_same(tiny.load(twice.state), model)
    exported = export_fairseq(tiny.checkpoint(model, regated))
    assert exported.keep.tolist() == twice.keep.tolist()
    tiny.assert_same(tiny.load(exported.state), model)


def test_dead_heads_of_the_exported_model_stay_dead_in_training():
    state = tiny.checkpoint(tiny.build(tiny.options()), tiny.options())
    stock = tiny.load(export_fairseq(state, mask=[bool(f) for f in UNEVEN]).state).train()
    optimizer = torch.optim.Adam(stock.parameters(), lr=0.1)
    source, lengths, target = tiny.batch()
    for _ in range(2):
        optimizer.zero_grad()
        stock(source, lengths, target)[0].square().sum().backward()
        optimizer.step()
    dead = stock.encoder.layers[1].self_attn
    assert all(not p.any() for name, p in dead.named_parameters() if name != "out_proj.bias")
    assert dead.out_proj.bias.any()


def flat_namespace(**changes) -> argparse.Namespace:
    """Options as fairseq before 0.10.1 saved them."""
    settings = {**tiny.SIZES, "arch": "transformer", "task": "translation", "criterion": "cross_entropy"}
    settings.update(
        optimizer="adam", adam_betas="(0.9, 0.98)", lr=[0.1], lr_scheduler="fixed", data="data-bin"
    )
    return argparse.Namespace(**{**settings, **changes})


@pytest.mark.parametrize("packed", [False, True], ids=["projections-of-today", "packed-projections"])
def test_an_old_stock_checkpoint_with_a_mask(packed):
    source = tiny.checkpoint(tiny.build(tiny.options()), tiny.options())
    tensors = dict(source["model"])
    if packed:
        for block in ("encoder.layers.0.self_attn", "decoder.layers.1.self_attn"):
            for part in ("weight", "bias"):
                three = [tensors.pop(f"{block}.{n}_proj.{part}") for n in "qkv"]
                tensors[f"{block}.in_proj_{part}"] = torch.cat(three)
    old = {"args": flat_namespace(), "model": tensors, "optimizer_history": source["optimizer_history"]}
    mask = [bool(flag) for flag in UNEVEN]
    pruned = prune_state(old, mask=mask)
    assert pruned.state["cfg"]["model"]["_name"] == "dsp_transformer"
    assert pruned.state["cfg"]["task"]["_name"] == "translation"
    tiny.assert_same(tiny.load(pruned.state), tiny.masked(mask))
    tiny.assert_same(tiny.load(export_fairseq(old, mask=mask).state), tiny.masked(mask))


def test_exported_checkpoints_are_stock_and_plain(tmp_path):
    settings = tiny.options(num_of_heads=4, joint_pruning=True)
    exported = export_fairseq(tiny.checkpoint(tiny.build(settings), settings)).state
    cfg = exported["cfg"]
    assert [cfg[s]["_name"] for s in ("model", "task", "criterion", "optimizer")] == [
        "transformer",
        "translation",
        "label_smoothed_cross_entropy",
        "adam",
    ]
    assert not set(cfg["model"]) & {"num_of_heads", "kept_heads", "pruning_lr", "use_ste"}
    assert "restore_file" not in cfg["task"] and cfg["common"]["user_dir"] is None
    assert "dsp" not in repr(cfg).lower() and "DSP" not in repr(exported["optimizer_history"])
    torch.save(exported, tmp_path / "plain.pt")
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        loaded = torch.load(tmp_path / "plain.pt", weights_only=True)
    finally:
        torch.serialization.add_safe_globals(allowed)
    assert loaded["extra_state"]["train_iterator"]["epoch"] == 2


def test_the_checkpoint_given_is_left_as_it_is():
    settings = tiny.options(num_of_heads=4, joint_pruning=True)
    state = tiny.checkpoint(tiny.build(settings), settings)
    names, options = list(state["model"]), dict(state["cfg"]["model"])
    export_fairseq(state)
    assert list(state["model"]) == names and state["cfg"]["model"] == options


def test_plain_values():
    mixed = argparse.Namespace(a=np.float64(1.5), b=(np.int64(2), [np.array([1, 2])]), c=None, d=True)
    assert to_built_in_types(mixed) == {"a": 1.5, "b": [2, [[1, 2]]], "c": None, "d": True}
    assert type(to_built_in_types(np.float64(1.5))) is float
    with pytest.raises(ValueError, match="object"):
        to_built_in_types({"x": object()})


def refused(named: str, state, *args, **kwargs) -> None:
    with pytest.raises(ValueError, match=named):
        prune_state(state, *args, **kwargs)


def test_bad_input():
    settings = tiny.options(num_of_heads=4, joint_pruning=True)
    state = tiny.checkpoint(tiny.build(settings), settings)
    refused(r"num_of_heads must be a whole number in 0..16", state, 17)
    refused(r"num_of_heads must be a whole number in 0..16", state, -1)
    refused("exclude each other", state, 3, [True] * N)
    refused("the mask has 3 entries, the model 16 heads", state, mask=[True] * 3)
    refused("give --num-of-heads, 0..16", {**state, "cfg": {"model": tiny.options()}})
    refused("no options", {**state, "cfg": None})
    refused("model is 'lstm'", {**state, "cfg": {"model": {"_name": "lstm"}}})
    refused(
        "scores for 3 heads", {**state, "model": {**state["model"], "gating.gates.scores": torch.zeros(3)}}
    )
    nan = torch.full((N,), float("nan"))
    refused("NaN", {**state, "model": {**state["model"], "gating.gates.scores": nan}})
    unranked = {**state["model"], "gating.gates.chosen": torch.tensor(False)}
    refused("random start: nothing has ranked the heads.*--mask", {**state, "model": unranked})
    refused("random start: nothing has ranked the heads", {**state, "model": unranked}, 3)
    refused("random start: no update was made", {**state, "optimizer_history": [{"num_updates": 0}]})
    warm = {"model": {**settings, "pruning_warmup_updates": 7}}
    refused("random start: 7 updates were made, 7 of them with all heads open", {**state, "cfg": warm})
    for known in (
        {**state, "model": {**unranked, "gating.gates.chosen": torch.tensor(True)}},
        {**state, "optimizer_history": []},
    ):
        assert int(prepare(known).head_map.num_heads) == N and random_scores(known) is None

    plain_state = tiny.checkpoint(tiny.build(tiny.options()), tiny.options())
    refused("no head scores, so nothing says which heads to keep.*--mask", plain_state)
    refused("no head scores", plain_state, 4)
    pruned = prune_state(state).state
    refused(r"no head scores \(heads were removed from it before\)", pruned)
    for record in ("{", '{"encoder.layers.0.self_attn": [0]}'):
        refused(
            "record of kept heads",
            {**pruned, "cfg": {"model": {**pruned["cfg"]["model"], "kept_heads": record}}},
        )
    refused("no record", {**pruned, "cfg": {"model": {**pruned["cfg"]["model"], "kept_heads": None}}})
    broken = {**state["model"], "encoder.layers.1.self_attn.v_proj.weight": torch.zeros(3, 3)}
    refused("encoder.layers.1.self_attn: ", {**state, "model": broken})


def test_mask_files(tmp_path):
    head_map = prepare(tiny.checkpoint(tiny.build(tiny.options()), tiny.options())).head_map
    assert head_map == tiny.head_map()
    path = tmp_path / "mask.json"
    flags = [bool(flag) for flag in UNEVEN]
    for content in (flags, UNEVEN, {"keep": flags}, {**head_map.to_dict(), "keep": flags}):
        path.write_text(json.dumps(content))
        assert read_mask(str(path), head_map) == flags
    other = head_map.to_dict()["blocks"][::-1]
    wrong = [
        ("{", "JSON"),
        ([1, 2], "expected"),
        ({"mask": []}, "expected"),
        ([True] * 3, "3 entries, the model 16"),
    ]
    wrong += [
        ([{"keep": flags}] * 2, "several models"),
        ({"keep": flags, "blocks": other}, "another model"),
        (3, "expected"),
    ]
    for content, named in wrong:
        path.write_text(content if content == "{" else json.dumps(content))
        with pytest.raises(ValueError, match=named) as error:
            read_mask(str(path), head_map)
        assert "mask.json" in str(error.value)
    with pytest.raises(FileNotFoundError):
        read_mask(str(tmp_path / "none.json"), head_map)
