"""The runs of diff pruning: their command lines, what is left, records of other settings, and the tables."""

from __future__ import annotations

import hf_programs  # noqa: F401  (first: see there)  isort: skip

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hf_programs import diff_options
from pipeline_runs import ROOT, plans_in

from dsp_plugin.hf.programs.chassis.arguments import GlueArguments, SquadArguments
from dsp_plugin.records.record import Metric, Record, method_label, save_record
from pipelines.plans.diff import DiffPlan


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """plan(**settings): everything in the test's folder."""
    monkeypatch.chdir(ROOT)
    return plans_in(tmp_path, DiffPlan)


def test_the_programs_know_all_that_is_asked_for(plan):
    made = plan(all_methods=1, tasks="CoLA MNLI SQuAD", densities=0.0025, seeds=3)
    methods = {run.method for run in made.runs if run.task == "SQuAD"}
    assert methods == {"full", "last-layer", "structured", "unstructured", "non-adaptive"}
    written, folders = set(), []
    for run in made.runs:
        for line in made.commands(run):
            assert (ROOT / line[0]).is_file()
            found = diff_options(line[1:], SquadArguments if run.task == "SQuAD" else GlueArguments)
            assert found["seed"] == 3 and found["model_name_or_path"] == "bert" and found["do_eval"]
            assert found["per_params_alpha"] == (run.method != "unstructured" or run.density is not None)
            for path in (found["eval_checkpoint"], found["mask_checkpoint"]):
                assert path is None or path in written, f"{path} is not made before it is read"
            folders.append(found["output_dir"])
            made_there = f"{found['output_dir']}/checkpoint-last-info.pt"
            written |= {found["output_dir"], made_there, found["save_checkpoint"]}
    assert len(set(folders)) == len(folders) == 3 * 10


def test_make_knows_the_whole_grid(monkeypatch):
    monkeypatch.chdir(ROOT)
    done = subprocess.run(["make", "-n", "diff-grid"], cwd=ROOT, capture_output=True, text=True, check=True)
    # under `make test` the lines of a make inside a make stand around it
    (line,) = [line for line in done.stdout.replace("\\\n", "").splitlines() if "pipelines/diff.smk" in line]
    words = shlex.split(line)
    made = DiffPlan(dict(word.split("=", 1) for word in words[words.index("--config") + 1 :]))
    assert {"SST-2/structured-0.0025-seed2", "STS-B/unstructured-0.01-seed3"} <= set(made.known)
    assert "SQuAD/structured-0.01-seed1" in made.known


@pytest.mark.parametrize(
    "density, name",
    [(0.005, "0.5"), (0.0025, "0.25"), (0.00498, "0.5"), (0.01, "1"), (0.123, "12"), (1, "100")],
)
def test_methods_are_named_as_in_records(density, name):
    assert method_label("any", density) == f"any-{name}%"


def test_what_there_is_to_do(plan, tmp_path, monkeypatch):
    made = plan()
    left = {run.name for run in made.left()}
    assert len(left) == 3 * 10 + 3
    assert {"CoLA/structured-0.005-seed1", "SQuAD/structured-0.01-seed1"} <= left
    (tmp_path / "MRPC").mkdir()
    words = ["diff", "model=bert", "ONLY=MRPC/structured-0.001", f"data={tmp_path}"]
    shown = subprocess.run(
        [sys.executable, "pipelines/show.py", *words], cwd=ROOT, capture_output=True, text=True
    )
    second, third = map(shlex.split, shown.stdout.splitlines())
    assert second[:2] == ["python", "scripts/glue/run_glue_mag.py"]
    assert third[:2] == ["python", "scripts/glue/run_glue_fixmask_finetune.py"]
    with pytest.raises(ValueError, match="only RTE: no such run; runs: CoLA/full-seed1"):
        plan(only="RTE")


def test_stage_3_awaits_the_mask_and_stage_2_the_model(plan, tmp_path):
    made = plan(tasks="CoLA", densities=0.01)
    run, plain = made.known["CoLA/non-adaptive-0.01-seed1"], made.known["CoLA/full-seed1"]
    records, runs = tmp_path / "results", tmp_path / "runs"
    second, third = records / run.name / "projected/dev/results.json", records / run.name / "dev/results.json"
    assert made.source_of(run) == [str(records / plain.name / "dev/results.json")]
    assert [path for path in made.wanted() if "non-adaptive" in path] == [str(second), str(third)]
    for path in (second, records / plain.name / "dev/results.json"):
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    assert made.source_of(run) == [str(runs / plain.name / "config.json")]
    assert made.mask_of(run) == [str(runs / run.name / "mask.diff.safetensors")]  # a clone has none
    assert [path for path in made.wanted() if "non-adaptive" in path] == [str(third)]
    made.mask(run).parent.mkdir(parents=True)
    made.mask(run).write_text("a mask")
    assert made.mask_of(run) == [] and run in made.left()
    third.parent.mkdir(parents=True)
    third.write_text("{}")
    assert run not in made.left()


def test_records_of_other_settings_are_no_result_of_this_pipeline(plan, tmp_path):
    made = plan(tasks="CoLA", densities=0.005, model="/here/bert")
    runs = {run.method: run for run in made.runs if run.density is None}

    def save(run, change=lambda line: line):
        record = Record(
            "glue-score", "CoLA", "any", command=change(shlex.join(made.command(run))), metrics=[]
        )
        save_record(record, tmp_path / "results" / run.name / "dev")

    # the same number in other digits, the model in another place, no command, and one that only scored a
    # trained model
    rate = ("--learning_rate 0.0001", "--learning_rate 1e-4")
    save(runs["full"], lambda line: line.replace(*rate).replace("/here/bert", "bert"))
    save(runs["last-layer"], lambda line: "")
    save(runs["unstructured"], lambda line: line.replace("--do_train", "").replace("/here/bert", "runs/diff"))
    save(runs["structured"])
    assert made.other_runs() == {} and not {*runs.values()} & {*made.left()}
    made.check()
    for change in (
        ("penalty_form additive", "penalty_form paper"),
        ("1.25e-07", "1e-08"),
        ("bert", "roberta"),
        ("epochs 3", "epochs 1"),
    ):
        save(runs["structured"], lambda line: line.replace(*change))  # noqa: B023  (called at once)
        assert list(made.other_runs()) == ["CoLA/structured-seed1"]
    starts_from_it = plan(tasks="CoLA", densities=0.005, model="/here/bert", only="CoLA/structured-0.005")
    with pytest.raises(
        ValueError, match="CoLA/structured-seed1 is of other settings: num_train_epochs: 1 there, 3 here"
    ):
        starts_from_it.check()


def test_what_was_not_run_is_not_measured(plan, tmp_path):
    made = plan(tasks="CoLA SQuAD")
    score = Metric("matthews_correlation", 41.5, unit="%", subset="dev")
    diff = {"method": "diff-structured", "total": 1000, "density": 0.005, "nonzeros": 5}
    diff |= {"bytes": 70, "full_bytes": 4000}
    run = made.known["CoLA/structured-0.005-seed1"]
    for label, folder in (("", run.name), ("-projected", f"{run.name}/projected")):
        assert run in made.left()
        method = f"diff-structured-0.5%{label}"
        one = Record("glue-score", "CoLA", method, seed=1, metrics=[score], extra={"diff": diff})
        save_record(one, tmp_path / "results" / folder / "dev")
    assert run not in made.left()
    text = made.write_tables()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    assert ["diff-structured", "0.5%", "41.50"] in [row[:3] for row in rows]
    assert ["diff-structured", "1%", "not measured", "not measured"] in [row[:4] for row in rows]
    last = [row[-1] for row in rows]
    assert last.count("0 of 1") == 7 + 2 and last.count("1 of 1") == 1
    results = Path(tmp_path / "results")
    assert (results / "table.md").read_text() == text and (results / "CoLA" / "table.csv").is_file()
