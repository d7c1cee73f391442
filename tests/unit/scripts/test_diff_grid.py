"""The grid of diff pruning: its command lines, what it lists, and its tables."""

from __future__ import annotations

import hf_programs  # noqa: F401  (first: see there)  isort: skip

import shlex
import subprocess
from pathlib import Path

import pytest
from hf_programs import diff_options, program

from dsp_plugin.hf.programs.chassis.arguments import GlueArguments, SquadArguments
from dsp_plugin.records.record import Metric, Record, save_record


@pytest.fixture(scope="module")
def grid():
    return program("diff/grid")


def test_the_programs_know_all_that_the_grid_asks_for(grid, tmp_path):
    words = [
        "--model",
        "bert",
        "--data",
        str(tmp_path),
        "--all-methods",
        "--tasks",
        "CoLA",
        "MNLI",
        "SQuAD",
        "--densities",
        "0.0025",
    ]
    options = grid.options_of(words)
    runs = grid.runs_of(options, 3)
    assert {run.method for run in runs if run.task == "SQuAD"} == {
        "full",
        "last-layer",
        "structured",
        "unstructured",
        "non-adaptive",
    }
    written, folders = set(), []
    for run in runs:
        for line in grid.commands(run, options):
            assert (Path(grid.grids.ROOT) / line[0]).is_file()
            found = diff_options(line[1:], SquadArguments if run.task == "SQuAD" else GlueArguments)
            assert found["seed"] == 3 and found["model_name_or_path"] == "bert" and found["do_eval"]
            assert found["per_params_alpha"] == (run.method != "unstructured" or run.density is not None)
            for path in (found["eval_checkpoint"], found["mask_checkpoint"]):
                assert path is None or path in written, f"{path} is not made before it is read"
            folders.append(found["output_dir"])
            written |= {
                found["output_dir"],
                f"{found['output_dir']}/checkpoint-last-info.pt",
                found["save_checkpoint"],
            }
    assert len(set(folders)) == len(folders) == 3 * 10


def test_make_knows_the_whole_grid(grid):
    done = subprocess.run(
        ["make", "-n", "diff-grid"], cwd=grid.grids.ROOT, capture_output=True, text=True, check=True
    )
    # under `make test` the lines of a make inside a make stand around it
    (line,) = [line for line in done.stdout.splitlines() if "scripts/diff/grid.py" in line]
    words = shlex.split(line)
    options = grid.options_of(words[words.index("scripts/diff/grid.py") + 1 :])
    names = {run.name for seed in options.seeds for run in grid.runs_of(options, seed)}
    assert {
        "SST-2/structured-0.0025-seed2",
        "STS-B/unstructured-0.01-seed3",
        "SQuAD/structured-0.01-seed1",
    } <= names


def test_what_there_is_to_do(grid, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    grid.main(["--list", "--results", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert (
        len(lines) == 3 * 10 + 3
        and "missing CoLA/structured-0.005-seed1" in lines
        and "missing SQuAD/structured-0.01-seed1" in lines
    )
    grid.main(["--show", "--model", "bert", "--only", "MRPC/structured-0.001", "--data", str(tmp_path)])
    second, third = map(shlex.split, capsys.readouterr().out.splitlines())
    assert (
        second[1] == "scripts/glue/run_glue_mag.py"
        and third[1] == "scripts/glue/run_glue_fixmask_finetune.py"
    )
    with pytest.raises(SystemExit, match="--only RTE: no such run; runs: CoLA/full-seed1"):
        grid.main(["--list", "--only", "RTE"])
    with pytest.raises(SystemExit):
        grid.main(["--list", "--densities", "5"])
    assert "'5': a share, above 0 and at most 1 belongs there" in capsys.readouterr().err


def test_records_of_other_settings_are_no_result_of_this_grid(grid, tmp_path, monkeypatch, capsys):
    words = [
        "--tasks",
        "CoLA",
        "--densities",
        "0.005",
        "--model",
        "/here/bert",
        "--data",
        str(tmp_path),
        "--results",
        str(tmp_path),
    ]
    options = grid.options_of(words)
    runs = {run.method: run for run in grid.runs_of(options, 1) if run.density is None}
    monkeypatch.setattr(grid.grids, "call", lambda words, log: pytest.fail("nothing may start"))

    def save(run, change=lambda line: line):
        (line,) = grid.commands(run, options)
        told = Record("glue-score", "CoLA", "any", command=change(shlex.join(line)), metrics=[])
        save_record(told, tmp_path / run.name / "dev")

    def listed():
        capsys.readouterr()
        grid.main([*words, "--list"])
        return {
            name: state
            for state, name in map(
                str.split, capsys.readouterr().out.splitlines()[: len(grid.runs_of(options, 1))]
            )
        }

    # the same number in other digits, the model in another place, no command, and one that only scored a
    # trained model
    save(
        runs["full"],
        lambda line: line.replace("--learning_rate 0.0001", "--learning_rate 1e-4").replace(
            "/here/bert", "bert"
        ),
    )
    save(runs["last-layer"], lambda line: "")
    save(runs["unstructured"], lambda line: line.replace("--do_train", "").replace("/here/bert", "runs/diff"))
    save(runs["structured"])
    assert {listed()[run.name] for run in runs.values()} == {"done"}
    for change in (
        ("penalty_form additive", "penalty_form paper"),
        ("1.25e-07", "1e-08"),
        ("bert", "roberta"),
        ("epochs 3", "epochs 1"),
    ):
        save(runs["structured"], lambda line: line.replace(*change))
        assert listed()["CoLA/structured-seed1"] == "other" and listed()["CoLA/full-seed1"] == "done"
    with pytest.raises(
        SystemExit, match="CoLA/structured-seed1 is of other settings: num_train_epochs 1 there, 3 here"
    ):
        # which starts from it
        grid.main([*words, "--only", "CoLA/structured-0.005", "--runs", str(tmp_path / "runs")])


def test_what_was_not_run_is_not_measured(grid, tmp_path):
    options = grid.options_of(["--results", str(tmp_path), "--tasks", "CoLA", "SQuAD"])
    score = Metric("matthews_correlation", 41.5, unit="%", subset="dev")
    told = {
        "method": "diff-structured",
        "total": 1000,
        "density": 0.005,
        "nonzeros": 5,
        "bytes": 70,
        "full_bytes": 4000,
    }
    run = next(run for run in grid.runs_of(options, 1) if (run.method, run.density) == ("structured", 0.005))
    for label, folder in (
        ("diff-structured-0.5%", run.name),
        ("diff-structured-0.5%-projected", f"{run.name}/projected"),
    ):
        assert not run.complete(tmp_path)
        one = Record("glue-score", "CoLA", label, seed=1, metrics=[score], extra={"diff": told})
        save_record(one, tmp_path / folder / "dev")
    assert run.complete(tmp_path)
    text = grid.write_tables(options)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    assert ["diff-structured", "0.5%", "41.50"] in [row[:3] for row in rows]
    assert ["diff-structured", "1%", "not measured", "not measured"] in [row[:4] for row in rows]
    assert [row[-1] for row in rows].count("0 of 1") == 7 + 2 and [row[-1] for row in rows].count(
        "1 of 1"
    ) == 1
    assert (tmp_path / "table.md").read_text() == text and (tmp_path / "CoLA" / "table.csv").is_file()
