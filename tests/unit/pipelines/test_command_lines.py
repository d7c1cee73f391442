"""The command lines of the pipelines are those of the programs that made the shipped records."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from pipeline_runs import ROOT

from pipelines.plans.diff import DiffPlan
from pipelines.plans.domains import DomainsPlan
from pipelines.plans.dsee import DseePlan
from pipelines.plans.glue import GluePlan
from pipelines.plans.mt import MTPlan

GOLDEN = Path(__file__).parent / "golden"  # "# settings", then "run: command" of each run with them


def sections(name: str) -> list[tuple[dict, list[str]]]:
    found: list[tuple[dict, list[str]]] = []
    for line in (GOLDEN / f"{name}.txt").read_text().splitlines():
        if line.startswith("# "):
            pairs = (word.split("=") for word in line[2:].split())
            found.append(({key: value.replace(",", " ") for key, value in pairs}, []))
        else:
            found[-1][1].append(line)
    return found


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.delenv("DSP_DATA_DIR", raising=False)
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("make", [GluePlan, DiffPlan, DseePlan], ids=lambda make: make.name)
def test_of_glue_and_squad(make):
    for config, lines in sections(make.name):
        plan = make({"model": "bert", **config})
        ours = [f"{run.name}: {shlex.join(words)}" for run in plan.runs for words in plan.commands(run)]
        assert ours == lines, config


def test_of_translation():
    plan = MTPlan({"seeds": "1 2"})
    lines = (GOLDEN / "mt.txt").read_text().splitlines()
    assert [line for line in lines if "seed1:" in line] != [] and len(MTPlan({}).runs) == len(lines) - 1
    for line in lines:
        name, command = line.split(": ", 1)
        *settings, script = shlex.split(command)
        program, *ours, our_script = plan.command(plan.known[name], "train", SUBSETS="test")
        assert (program, our_script) == ("env", script)
        assert {*ours} == {*settings, "STEPS=train", "SUBSETS=test"}


def test_of_other_domains():
    for config, lines in sections("domains"):
        plan = DomainsPlan(config)
        ours = [plan.diffs(density) for density in plan.yaml.densities]
        ours += [plan.full(), plan.non_adaptive_mask(), plan.non_adaptive(), plan.non_adaptive_pack()]
        ours += [plan.base_training()] if plan.home.name == "iwslt14" else []
        # those of DSEE and Delta-Tuning have no shipped record
        rows = [row for row in plan.runs if row.update is None and row.delta is None]
        ours += [plan.score(row, domain) for row in rows for domain in (plan.home, plan.away)]
        assert {shlex.join(words) for words in ours} == set(lines)


def test_a_folder_of_a_task_is_its_data(tmp_path, monkeypatch):
    (tmp_path / "glue" / "CoLA").mkdir(parents=True)
    monkeypatch.setenv("DSP_DATA_DIR", str(tmp_path))
    plan = GluePlan({"model": "bert", "tasks": "CoLA RTE SQuAD"})
    for task, words in (
        ("CoLA", ["--data_dir", str(tmp_path / "glue" / "CoLA")]),
        ("RTE", ["--task_name", "RTE", "--max_seq_length", "128"]),
        ("SQuAD", ["--train_file", str(tmp_path / "squad" / "devsplit-train.json")]),
    ):
        assert shlex.join(words) in shlex.join(plan.data_words(task))
        assert ("--data_dir" in plan.data_words(task)) == (task == "CoLA")


def test_the_captions_base_is_that_of_the_grid():
    plan = DomainsPlan({})
    grid = MTPlan({})
    assert plan.base_training() == grid.command(grid.known["small/unpruned-seed1"], "train")
    assert plan.base == grid.checkpoint(grid.known["small/unpruned-seed1"])
