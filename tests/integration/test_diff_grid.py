"""The grid of diff pruning from one command on small generated data: every method, two updates each; then
the table.
"""

from __future__ import annotations

import hf_programs  # noqa: F401  (first: see there)  isort: skip

import shutil
from pathlib import Path

import pytest
from glue_folders import write_task
from hf_programs import program, start, write_bert

from dsp_plugin.diffs import DiffPack
from dsp_plugin.records.record import load_record


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """The grid's module, its programs called in this process; `calls` are their command lines, `broken`
    one that fails.
    """
    write_bert(tmp_path / "bert")
    write_task(tmp_path / "glue" / "CoLA", "CoLA", train=32, dev=8)
    grid = program("diff/grid")
    grid.calls, grid.broken = [], None

    def call(words, log):
        grid.calls.append(words)
        if grid.broken and grid.broken in words[0]:
            return False
        start(words[0].removeprefix("scripts/").removesuffix(".py"), *words[1:], "--max_seq_length", 24)
        return True

    monkeypatch.setattr(grid.grids, "call", call)
    monkeypatch.chdir(tmp_path)
    return grid


def test_every_method_once_and_only_once(grid, tmp_path, capsys):
    words = [
        "--tasks",
        "CoLA",
        "--densities",
        "0.01",
        "--quick",
        "8",
        "--model",
        str(tmp_path / "bert"),
        "--data",
        str(tmp_path / "glue"),
    ]
    words += ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    grid.broken = "mag.py"
    with pytest.raises(SystemExit, match=r"1 run\(s\) failed"):
        grid.main([*words, "--only", "CoLA/structured"])
    grid.main([*words, "--only", "CoLA/structured-seed"])
    assert len(grid.calls) == 2 and "not measured" in (tmp_path / "results" / "table.md").read_text()
    with pytest.raises(SystemExit, match=r"1 run\(s\) failed"):
        grid.main([*words, "--only", "CoLA/non-adaptive"])
    # which it starts from; then mag.py failed
    assert "done  CoLA/full-seed1" in capsys.readouterr().out and len(grid.calls) == 4

    grid.broken = "fixmask"
    with pytest.raises(SystemExit, match=r"1 run\(s\) failed"):
        grid.main([*words, "--only", "CoLA/structured"])
    grid.broken = None
    grid.main(words)
    assert [line[0].split("_glue_")[1] for line in grid.calls[4:]] == (
        ["mag.py", "fixmask_finetune.py"]  # and that failed
        + ["fixmask_finetune.py", "mag.py", "fixmask_finetune.py"]  # structured, from its mask; non-adaptive
        + ["diffpruning.py", "mag.py", "fixmask_finetune.py", "diffpruning.py"]  # unstructured; last layer
    )
    table = (tmp_path / "results" / "table.md").read_text()
    assert "not measured" not in table and capsys.readouterr().out.endswith(f"{table}\n")
    count = len(grid.calls)
    grid.main(words)
    assert len(grid.calls) == count

    for name, method in (
        ("structured", "diff-structured"),
        ("non-adaptive", "non-adaptive"),
        ("unstructured", "diff-unstructured"),
    ):
        folder = f"CoLA/{name}-0.01-seed1"
        pack = DiffPack.load(tmp_path / "runs" / folder / "task.diff.safetensors")
        record = load_record(tmp_path / "results" / folder / "dev" / "results.json")
        assert record.method == f"{method}-1%" and record.extra["diff"]["nonzeros"] == pack.nonzeros
    assert not list(Path(tmp_path / "runs").glob("**/checkpoint-*/"))

    # a clone has the records and no models: what a run starts from is trained once more, beside them
    full = tmp_path / "results" / "CoLA" / "full-seed1" / "dev" / "results.json"
    before = full.read_bytes()
    shutil.rmtree(tmp_path / "runs")
    shutil.rmtree(tmp_path / "results" / "CoLA" / "non-adaptive-0.01-seed1")
    grid.main(words)
    assert full.read_bytes() == before and load_record(
        tmp_path / "runs" / "records" / "CoLA" / "full-seed1" / "dev" / "results.json"
    )
    assert [line[0].split("_glue_")[1] for line in grid.calls[count:]] == [
        "diffpruning.py",
        "mag.py",
        "fixmask_finetune.py",
    ]
