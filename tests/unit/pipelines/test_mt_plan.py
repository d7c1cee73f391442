"""The runs on Multi30k: what they wait for, what is left, and the steps of a pipeline's script."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pipeline_runs import ROOT

from pipelines.plans.mt import MTPlan

STUB = """#!/usr/bin/env bash
[[ $* != *tuning_schedule* ]] || exec PYTHON "$@"
echo "$@" >>"$CALLS"
while (($#)); do [[ $1 == --save-dir ]] && { mkdir -p "$2"; echo '{}' >"$2/results.json"; }; shift; done
"""


@pytest.fixture
def plan(tmp_path):
    def make(**config):
        return MTPlan({"runs": str(tmp_path / "runs"), "results": str(tmp_path / "results"), **config})

    return make


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")


def test_every_step_waits_for_the_one_before_it(plan, tmp_path):
    made = plan()
    run, source = made.known["small/pipelined-K6-seed1"], made.known["small/unpruned-seed1"]
    trained = str(tmp_path / "runs/small/pipelined-K6-seed1/results.json")
    assert made.source_of(run) == [str(tmp_path / "runs/small/unpruned-seed1/results.json")]
    assert made.trained(run) == made.scorable(run) == [trained] and made.source_of(source) == []
    write(made.folder(source) / "checkpoint_best.pt")  # of a training that was stopped
    assert made.source_of(run)
    write(made.folder(source) / "results.json")
    assert made.source_of(run) == []
    michel = made.known["small/michel-K6-seed1"]
    assert made.trained(michel) == [] and made.scorable(michel) == [
        str(made.folder(michel) / "checkpoint_pruned.pt")
    ]


def test_a_run_is_done_when_all_its_records_are_there(plan, tmp_path):
    made = plan(only="small/joint-K6")
    (run,) = made.runs
    assert made.scored(run) == ["test", "test1", "test-tuned", "test1-tuned"]
    deployed = str(tmp_path / "runs" / run.name / "checkpoint_pruned.pt")
    assert made.wanted() == [*(str(made.record(run, scored)) for scored in made.scored(run)), deployed]
    for scored in made.scored(run):
        assert not made.complete(run)
        write(made.record(run, scored))
    assert made.complete(run) and made.wanted() == []  # a clone has no models
    assert plan(only="small/straight").scored(plan(only="small/straight").runs[0]) == ["test", "test1"]


def test_the_table_is_that_of_the_shipped_records(monkeypatch):
    monkeypatch.chdir(ROOT)
    for path, text in MTPlan({}).tables().items():
        assert path.read_bytes() == text.encode()


def test_more_flags_reach_the_scripts(plan):
    made = plan(flags="--cpu --num-workers 0")
    assert "FLAGS=--cpu --num-workers 0" in made.command(made.runs[0], "train")


@pytest.mark.parametrize("name", ["runs", "results"])
def test_a_folder_that_cannot_be_one(plan, name):
    with pytest.raises(ValueError, match=f"^{name} /dev/null is a device"):
        plan(**{name: "/dev/null"}).check()


def test_a_seed_that_is_there_twice_is_trained_once(plan):
    assert [run.seed for run in plan(only="small/unpruned-", seeds="2 02 2").runs] == [2]


@pytest.mark.parametrize("script", ["joint", "michel", "unpruned"])
def test_the_steps_of_a_script_make_up_the_whole(script, tmp_path):
    """One by one they start the programs that the whole pipeline starts."""

    def programs(name: str, *steps: str) -> list[str]:
        python, data = tmp_path / "python", tmp_path / "data-bin"
        python.write_text(STUB.replace("PYTHON", sys.executable))
        python.chmod(0o755)
        write(data / "dict.en.txt")
        settings = {
            "K": "6",
            "TUNE_UPDATES": "3",
            "SUBSETS": "test",
            "DATA_BIN": str(data),
            **({} if script == "unpruned" else {"UNPRUNED": "unpruned.pt"}),
        }
        places = {"SAVE_DIR": "run", "RECORD_DIR": "records"}
        settings |= {key: str(tmp_path / name / folder) for key, folder in places.items()}
        for step in steps:
            environment = {
                **os.environ,
                **settings,
                "PYTHON": str(python),
                "CALLS": str(tmp_path / f"{name}.calls"),
            }
            environment |= {"STEPS": step} if step else {}
            subprocess.run(
                [ROOT / f"scripts/mt/{script}.sh"], env=environment, check=True, stdout=subprocess.DEVNULL
            )
        return re.sub(f"{tmp_path}/{name}/", "", (tmp_path / f"{name}.calls").read_text()).splitlines()

    whole = programs("whole", "")
    steps = programs("steps", "train", "score", "prune", "tune", "score-tuned")
    assert len(whole) == {"joint": 5, "michel": 5, "unpruned": 4}[script]
    assert sorted(steps) == sorted(whole)
    tuning = [line for line in whole if "/tuned " in line and "run_dsp.py" in line]
    assert len(tuning) == 1
    # of multi30k: a third of its rate, and the options of what was trained before are overruled by later ones
    wanted = "--lr 0.001 --lr-scheduler polynomial_decay --warmup-updates 0 --total-num-update 3"
    assert all(wanted in line and line.index(wanted) > line.index("--lr 3e-3") for line in tuning)
