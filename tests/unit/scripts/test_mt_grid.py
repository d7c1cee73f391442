"""The grid of translation runs trains what a run starts from, where its checkpoint is missing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from claims import at_work

GRID = Path(__file__).resolve().parents[3] / "scripts" / "mt" / "grid.py"


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """The grid's module in an empty folder; `calls` are its pipelines and where their records go."""
    spec = importlib.util.spec_from_file_location("mt_grid", GRID)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mt_grid", module)  # its dataclasses look for it there
    spec.loader.exec_module(module)
    module.ROOT, module.calls = str(tmp_path), []

    def call(words, env, **streams):
        module.calls.append((words[0], env["RECORD_DIR"]))
        if module.broken not in words[0]:
            (Path(env["SAVE_DIR"]) / "results.json").write_text("{}")
        return int(module.broken in words[0])

    module.broken = "none"
    monkeypatch.setattr(subprocess, "call", call)
    monkeypatch.chdir(tmp_path)
    return module


def start(grid, monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["grid.py", *words])
    grid.main()


def test_what_a_run_starts_from_is_trained_first(grid, tmp_path, monkeypatch, capsys):
    grid.broken = "unpruned"
    with pytest.raises(SystemExit, match=r"2 run\(s\) failed"):
        start(grid, monkeypatch, "--only", "small/pipelined-K6")
    assert "needs the training of small/unpruned-seed1, which failed" in capsys.readouterr().out
    grid.broken = "none"
    start(grid, monkeypatch, "--only", "small/pipelined-K6")
    pipelined = ("scripts/mt/pipelined.sh", "results/multi30k/small/pipelined-K6-seed1")
    unpruned = ("scripts/mt/unpruned.sh", "results/multi30k/small/unpruned-seed1")
    assert grid.calls == [unpruned, unpruned, pipelined]


def test_a_record_of_others_stays_as_it_is(grid, tmp_path, monkeypatch):
    for subset in grid.SUBSETS:
        record = tmp_path / "results/multi30k/small/unpruned-seed1" / subset / "results.json"
        record.parent.mkdir(parents=True)
        record.write_text("{}")
    monkeypatch.setattr(grid, "write_table", lambda seeds: "")
    start(grid, monkeypatch, "--only", "small/pipelined-K6")
    assert grid.calls[0] == ("scripts/mt/unpruned.sh", "runs/grid/records/small/unpruned-seed1")


def test_a_run_that_another_grid_is_at_work_on_fails_at_once(grid, tmp_path, monkeypatch, capsys):
    folder = Path("runs/grid/small/unpruned-seed1")
    with at_work(tmp_path / folder, name=".grid.lock") as other:
        with pytest.raises(SystemExit, match=r"1 run\(s\) failed"):
            start(grid, monkeypatch, "--only", "small/unpruned")
    assert (
        f"FAILED small/unpruned-seed1   the folder {folder} is in use by process {other.pid}"
        in capsys.readouterr().out
    )
    assert grid.calls == []


def test_a_seed_that_is_there_twice_is_trained_once(grid, monkeypatch):
    start(grid, monkeypatch, "--only", "small/unpruned", "--seeds", "2", "02", "2")
    assert len(grid.calls) == 1


@pytest.mark.parametrize("words", [["--seeds", "-1"], ["--jobs", "0"], ["--runs", "/dev/null"]])
def test_options_that_cannot_be(grid, monkeypatch, capsys, words):
    with pytest.raises((SystemExit, ValueError)) as refused:
        start(grid, monkeypatch, *words)
    assert words[0] in f"{refused.value}{capsys.readouterr().err}" and not grid.calls
