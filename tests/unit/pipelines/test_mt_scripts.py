"""The pipelines of scripts/mt: the command line of the training that their settings come to."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from pipeline_runs import ROOT

from pipelines.plans.mt import MTPlan

STUB = """#!/usr/bin/env bash
[[ $* != *--save-dir* ]] || printf '%s\\0' "$@" >"$CALLS"
while (($#)); do [[ $1 == --save-dir ]] && { mkdir -p "$2"; echo '{}' >"$2/results.json"; }; shift; done
"""
SETTINGS = "SCHEDULE PRUNING_LR T0 TF COOLDOWN PIPELINED_COOLDOWN WARMUP L0_PENALTY INIT_SCORES PRUNING_FLAGS"
ANNEALING = "--annealing --initial-temperature 1 --final-temperature 0.01 --cooldown-steps"
# run of mt.yaml -> what its shipped records were trained with; open phase: a third of 2400 or 1000 updates
BY_HAND = {
    "base/joint-K9-seed1": f"--pruning-lr 0.1 --pruning-warmup-updates 333 {ANNEALING} 250",
    "small/joint-K6-seed1": f"--pruning-lr 0.1 --pruning-warmup-updates 800 {ANNEALING} 600",
    "small/joint_spread-K6-seed1": f"--pruning-lr 0.1 --pruning-warmup-updates 800 {ANNEALING} 600 "
    "--min-heads-per-block 1",
    "small/straight_through-K6-seed1": "--use-ste --pruning-lr 0.1 --pruning-warmup-updates 800",
    "small/voita-K6-seed1": "--pruning-lr 0.1 --pruning-warmup-updates 800",
    "small/pipelined-K6-seed1": f"--pruning-lr 0.1 {ANNEALING} 250 --max-update 390 --max-epoch 0",
}


def start(script: str, folder: Path, **settings: str) -> subprocess.CompletedProcess:
    """Train by a pipeline with a stub for Python, which leaves its command line in `folder`/calls."""
    python, data = folder / "python", folder / "data-bin"
    python.write_text(STUB)
    python.chmod(0o755)
    data.mkdir(exist_ok=True)
    (data / "dict.en.txt").write_text("")
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS.split()}
    environment |= {"CALLS": str(folder / "calls"), "PYTHON": str(python), "DATA_BIN": str(data)}
    environment |= {"SAVE_DIR": str(folder / "run"), "UNPRUNED": "unpruned.pt", "K": "6"}
    environment |= {**settings, "STEPS": "train"}
    words = [ROOT / f"scripts/mt/{script}.sh"]
    return subprocess.run(words, env=environment, capture_output=True, text=True)


def gates(script: str, folder: Path, **settings: str) -> str:
    """Return what the command line says of the choice of heads, and what follows."""
    done = start(script, folder, **settings)
    assert done.returncode == 0, done.stderr
    words = (folder / "calls").read_text().split("\0")[:-1]
    return shlex.join(words[words.index("--method") + 2 :])


@pytest.mark.parametrize("name", BY_HAND)
def test_runs_of_the_grid_mean_what_their_records_were_made_with(name, tmp_path):
    plan = MTPlan({"runs": str(tmp_path / "runs"), "results": str(tmp_path / "results")})
    _, *settings, script = plan.command(plan.known[name], "train")
    given = dict(word.split("=", 1) for word in settings)
    found = gates(Path(script).stem, tmp_path, **{**given, "SAVE_DIR": str(tmp_path / "run")})
    assert found.endswith(BY_HAND[name])


@pytest.mark.parametrize(
    "script, options",
    [
        ("joint", "--num-of-heads 6 --joint-pruning"),
        ("straight_through", "--num-of-heads 6 --joint-pruning --use-ste --pruning-schedule auto"),
        ("voita", "--num-of-heads 6 --joint-pruning"),
    ],
)
def test_no_schedule_is_passed_where_none_is_given(script, options, tmp_path):
    assert gates(script, tmp_path) == options


@pytest.mark.parametrize(
    "script, options",
    [
        ("pipelined", "--num-of-heads 6 --finetune-from-model unpruned.pt"),
        ("voita_pipelined", "--num-of-heads 6 --finetune-from-model unpruned.pt"),
    ],
)
def test_the_start_of_the_scores_and_more_options_go_beside_it(script, options, tmp_path):
    more = {"INIT_SCORES": "random", "PRUNING_FLAGS": "--min-heads-per-block 1"}
    asked = "--init-scores random --min-heads-per-block 1 --max-update 390 --max-epoch 0"
    assert gates(script, tmp_path, SCHEDULE="auto", **more) == f"{options} {asked}"


def test_a_setting_of_the_schedule_makes_it_one_by_hand(tmp_path):
    wanted = f"--num-of-heads 6 --joint-pruning --pruning-lr 0.1 --pruning-warmup-updates 533 {ANNEALING} 300"
    assert gates("joint", tmp_path, COOLDOWN="300") == wanted


def test_the_penalty_alone_leaves_the_number_of_heads_open(tmp_path):
    wanted = "--l0-penalty 20 --joint-pruning --pruning-lr 0.1 --pruning-warmup-updates 533"
    assert gates("voita", tmp_path, L0_PENALTY="20", K="") == wanted


@pytest.mark.parametrize(
    "script, settings, reason",
    [
        (
            "joint",
            {"SCHEDULE": "auto", "T0": "1"},
            "SCHEDULE=auto works T0 out itself: leave one of them out",
        ),
        ("joint", {"SCHEDULE": "published"}, "SCHEDULE=published: choose auto or hand"),
        ("voita", {"SCHEDULE": "hand"}, "L0_PENALTY is not set: give the price of an open head"),
        (
            "voita",
            {"K": ""},
            "neither K nor L0_PENALTY is set: give the number of heads to keep, e.g. K=9, or ",
        ),
        ("joint", {"K": ""}, "K='': set K to the number of heads to keep, e.g. K=9"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_started(script, settings, reason, tmp_path):
    done = start(script, tmp_path, **settings)
    assert done.returncode == 2 and reason in done.stderr
    assert not (tmp_path / "calls").exists()


def test_delta_is_one_stage_or_several(tmp_path):
    def options(**settings: str) -> dict[str, list[str]]:
        done = start("delta", tmp_path, **settings)
        assert done.returncode == 0, done.stderr
        found: dict[str, list[str]] = {}
        for word in (tmp_path / "calls").read_text().split("\0")[:-1]:
            if word.startswith("--"):
                found[word] = values = []
            elif found:
                values.append(word)
        return found

    both = options(REDUCTION="8")
    assert both["--delta-methods"] == ["bias,adapter"] and both["--adapter-reduction"] == ["8"]
    assert both["--base-checkpoint"] == ["unpruned.pt"] and both["--lr"] == ["1e-3"]
    staged = options(METHODS="bias adapter")
    assert staged["--delta-methods"] == ["bias", "adapter"]
    bias = options(METHODS="bias")
    assert bias["--lr"] == ["3e-3"] and "--adapter" not in bias  # whose options go with it alone
    (tmp_path / "calls").unlink()
    done = start("delta", tmp_path, METHODS="bias prompt")
    assert done.returncode == 2 and "METHODS=bias prompt: some of bias, adapter and lora" in done.stderr
    assert not (tmp_path / "calls").exists()
