"""Michel's loop on a Transformers model: which heads go, what is saved, and going on from it."""

from __future__ import annotations

import shutil

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import tiny_model  # isort: skip
from hf_data import padded, sentences

from dsp_plugin.gating import FixedGates, HeadBudget, next_removals, normalised
from dsp_plugin.hf import gate_heads, head_map_of, prune_heads
from dsp_plugin.hf.heads.importance import ExampleRanking, head_importance
from dsp_plugin.hf.heads.sweep import prune_by_importance
from dsp_plugin.options.errors import OptionError
from dsp_plugin.records.files.sealed import read_json

N = 8
DATA, HELD_OUT = sentences(9), sentences(6, seed=2)


@torch.no_grad()
def loss_of(model) -> float:
    return float(model(**padded(HELD_OUT)).loss)


def sweep(model, folder, step=3, **options):
    """Steps, and for which subsets the model was scored."""
    asked = []

    def evaluate(subset):
        asked.append(subset)
        assert not model.training
        return {"loss": loss_of(model), "other": 1}

    given = {"ranking": ExampleRanking(batch_size=4), "say": lambda line: None, "progress": False, **options}
    return prune_by_importance(model, DATA, padded, folder, step, evaluate, **given), asked


def by_hand(model, exact: bool):
    """The masks after 3, 6 and 8 heads went."""
    keep, found, raw = torch.ones(N, dtype=torch.bool), [], None
    for count in (3, 3, 2):
        if exact or raw is None:
            raw = normalised(
                head_importance(model, DATA, padded, 9, progress=False, keep=keep), head_map_of(model), keep
            )
        keep = keep.clone()
        keep[next_removals(raw, keep, count)] = False
        found.append(keep.tolist())
    return found


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "one-shot"])
def test_every_step_is_the_model_without_those_heads(exact, tmp_path):
    model = tiny_model("bert").train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    steps, asked = sweep(model, tmp_path, exact=exact)
    assert [step["keep"] for step in steps] == [[True] * N, *by_hand(model, exact)] and asked == ["eval"] * 4
    for step in steps:
        pruned = tiny_model("bert")
        prune_heads(pruned, torch.tensor(step["keep"]))
        assert step["scores"]["eval"]["value"] == pytest.approx(loss_of(pruned), rel=1e-9)
        assert step["scores"]["eval"]["metrics"]["other"] == 1
    assert model.training and all(
        torch.equal(weight, before[name]) for name, weight in model.state_dict().items()
    )
    assert [read_json(path) for path in sorted(tmp_path.glob("step-*.json"))] == steps
    assert sorted(path.name for path in tmp_path.glob("mask-*")) == [
        "mask-K0.json",
        "mask-K2.json",
        "mask-K5.json",
    ]


def test_exact_and_one_shot_differ_here():
    """Else the test above would not tell them apart."""
    model = tiny_model("bert")
    assert by_hand(model, True) != by_hand(model, False)


def test_it_goes_on_where_it_stopped(tmp_path):
    whole, _ = sweep(tiny_model("bert"), tmp_path / "whole", exact=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "step-03.json").unlink()
    (tmp_path / "cut" / "step-02.json").unlink()
    again, asked = sweep(tiny_model("bert"), tmp_path / "cut", exact=True)
    assert again == whole and len(asked) == 2
    finished, asked = sweep(tiny_model("bert"), tmp_path / "cut", exact=True)
    assert finished == whole and asked == []


def test_it_does_not_go_on_from_another_sweep(tmp_path):
    sweep(tiny_model("bert"), tmp_path)
    told = "^output_dir .*other settings .exact: False there, True here.: choose another folder"
    with pytest.raises(OptionError, match=told):
        sweep(tiny_model("bert"), tmp_path, exact=True)
    other = tiny_model("bert")
    with torch.no_grad():
        other.bert.encoder.layer[1].output.dense.bias[0] += 1e-3
    with pytest.raises(ValueError, match="other settings .model: "):
        sweep(other, tmp_path)
    (tmp_path / "step-01.json").write_text("{")
    with pytest.raises(ValueError, match="step-01.json is damaged"):
        sweep(tiny_model("bert"), tmp_path)


def test_gates_on_the_model_play_no_part(tmp_path):
    plain, _ = sweep(tiny_model("bert"), tmp_path / "plain")
    model = tiny_model("bert")
    gate_heads(model, FixedGates(torch.arange(N) < 2))
    gated, _ = sweep(model, tmp_path / "gated")
    assert [step["keep"] for step in gated] == [step["keep"] for step in plain]
    assert gated[0]["scores"]["eval"]["value"] == pytest.approx(plain[0]["scores"]["eval"]["value"], rel=1e-9)


@pytest.mark.parametrize("rank_by", ["random", "magnitude"])
def test_baselines_need_no_data(rank_by, tmp_path):
    steps = prune_by_importance(
        tiny_model("bert"),
        None,
        None,
        tmp_path,
        3,
        lambda subset: {},
        exact=True,
        subsets=[],
        budgets=[4],
        ranking=ExampleRanking(rank_by),
        say=lambda line: None,
    )
    assert [step["kept"] for step in steps] == [8, 5, 4] and all(step["scores"] == {} for step in steps)
    assert [path.name for path in tmp_path.glob("mask-*")] == ["mask-K4.json"]


def test_budgets_are_landed_on(tmp_path):
    model = tiny_model("bert")
    budget = HeadBudget(head_map_of(model), 3, minimum=1)
    steps, asked = sweep(
        model, tmp_path, budgets=[6], budget=budget, score_only_budgets=True, subsets=["a", "b"]
    )
    assert [step["kept"] for step in steps] == [8, 6, 5, 3] and asked == ["a", "b"] * 3
    assert all(sum(steps[-1]["keep"][block : block + 4]) >= 1 for block in (0, 4))


@pytest.mark.parametrize(
    "options, said",
    [
        ({"step": 0}, r"num_of_heads.*1\.\.8 here, got 0"),
        ({"budgets": [9]}, r"budgets must be in 0\.\.8.*got 9"),
        ({"ranking": ExampleRanking("size")}, "rank_by must be one of"),
    ],
)
def test_what_it_refuses(options, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        sweep(tiny_model("bert"), tmp_path, **options)
    assert not list(tmp_path.iterdir())
