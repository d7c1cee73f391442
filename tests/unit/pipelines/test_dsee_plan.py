"""The runs of DSEE: their command lines, who shares a stage I, what is left, the table of their records."""

from __future__ import annotations

import hf_programs  # noqa: F401  (first: see there)  isort: skip

import shlex
import sys

import pytest
from pipeline_runs import ROOT, plans_in

from dsp_plugin.dsee.labels import label_of
from dsp_plugin.hf.programs.chassis.arguments import GlueArguments
from dsp_plugin.hf.programs.chassis.parsing import parse
from dsp_plugin.hf.programs.chassis.train import option_groups
from dsp_plugin.hf.programs.chassis.tuning import TuningArguments
from dsp_plugin.hf.programs.dsee.arguments import PruneArguments, StartArguments, UpdateArguments
from dsp_plugin.records.answers import save_answers
from dsp_plugin.records.record import Metric, Record, save_record
from pipelines.plans.dsee import DseePlan

STAGE_I = [UpdateArguments, StartArguments, TuningArguments]
LATER = [UpdateArguments, StartArguments, PruneArguments]
LABELS = [1, 0, 1, 1, 0, 1, 1, 0] * 4


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """plan(**settings): everything in the test's folder."""
    monkeypatch.chdir(ROOT)
    return plans_in(tmp_path, DseePlan, beside=tmp_path / "diff")


def understood(words: list[str]) -> dict:
    groups = option_groups(GlueArguments, STAGE_I if words[0].endswith("run_glue.py") else LATER)
    found = parse("", groups, words[1:])
    for group in found:
        if hasattr(group, "check"):
            group.check()
    return {name: value for group in found for name, value in vars(group).items()}


def test_the_programs_know_all_that_is_asked_for(plan):
    made = plan(all_methods=1, tasks="CoLA MNLI", seeds=3, speed=1)
    written = set()
    for run in made.runs:
        training, measuring = made.commands(run)
        assert (ROOT / training[0]).is_file()
        found = understood(training)
        assert found["seed"] == 3 and found["model_name_or_path"] == "bert" and found["do_eval"]
        if run.source is not None:
            assert found["dsee_checkpoint"] in written, f"{run.name} begins with what is not made before it"
        written.add(found["output_dir"])
        again = understood(measuring)
        assert again["dsee_checkpoint"].rstrip("/") == f"{found['output_dir']}/{run.last}".rstrip("/")
        assert not again["do_train"] and again["record_dir"] == f"{found['record_dir']}/speed"
    assert len(written) == len(made.runs) == 2 * 9


def test_methods_are_named_as_in_records(plan):
    made = plan(all_methods=1, tasks="CoLA")
    for run in made.runs:
        found, start = understood(made.command(run)), understood(made.command(run.source or run))
        config = {"stage": "I", "sparse_method": start["sparse_method"]}
        config["num_sparse"] = start["num_sparse"] if start["apply_sparse"] else 0
        if run.source is not None:
            pruning = PruneArguments(**{name: found[name] for name in vars(PruneArguments())})
            config |= {"stage": "III", "pruning": pruning.figures()}
        assert made.settings.methods[run.method]["method"] == (found["method"] or label_of(config))


def test_seeds_and_methods_of_a_task(plan):
    made = plan()
    names = {run.name for run in made.runs}
    assert {"CoLA/heads-neurons-seed3", "CoLA/rp-seed2", "STS-B/heads-seed1"} <= names
    assert not names & {"STS-B/heads-seed2", "STS-B/weights-50-seed1", "SST-2/dsee-seed1"}
    assert {run.seed for run in plan(tasks="STS-B", seeds="1 2").runs} == {1, 2}
    with pytest.raises(ValueError, match="tasks SQuAD: the programs of DSEE are for GLUE's tasks"):
        plan(tasks="SQuAD")


def test_stages_ii_and_iii_await_a_stage_i_that_all_of_them_share(plan, tmp_path):
    made = plan(tasks="CoLA", seeds=1)
    run, start = made.known["CoLA/heads-seed1"], made.known["CoLA/first-seed1"]
    sources = {one.source.name for one in made.runs if one.source is not None}
    assert sources == {start.name}
    wanted = tmp_path / "results" / start.name / "dev/results.json"
    assert made.source_of(run) == [str(wanted)]
    wanted.parent.mkdir(parents=True)
    wanted.write_text("{}")
    awaited = tmp_path / "runs" / start.name / "task.dsee.safetensors"
    assert made.source_of(run) == [str(awaited)]  # a clone has records and no file
    awaited.parent.mkdir(parents=True)
    awaited.write_text("an update")
    assert made.source_of(run) == [] and start not in made.left() and run in made.left()
    third = tmp_path / "results" / run.name / "3rd/dev/results.json"
    assert str(third) in made.wanted()
    third.parent.mkdir(parents=True)
    third.write_text("{}")
    assert run not in made.left()
    again = plan(tasks="CoLA", seeds=1, speed=1)
    assert run in again.left() and str(third.parents[2] / "speed/dev/results.json") in again.wanted()


def account(trainable: int, left: int, speed: float) -> dict:
    found = {"trainable": trainable, "update_nonzeros": {"low_rank": 70, "sparse": 8, "task_head": 2}}
    found |= {"base_weights": 1000, "weights_left": left, "merged_nonzeros": left, "bytes": 512}
    found |= {"flops": {"base": 100, "deployed": left // 10}, "batch": [8, 128]}
    latency = {"base": 0.02, "deployed": 0.01, "speedup": speed, "least": 1.5, "most": 2.5, "threads": 1}
    return {**found, "latency": latency}


def save(folder, plan, run, method, answers, left=1000, stage="", speed=2.0) -> None:
    right = sum(one == other for one, other in zip(answers, LABELS))
    metrics = [Metric("accuracy", 100 * right / len(LABELS), "%", subset="dev")]
    extra = {"model": "bert", "dsee": account(80, left, speed)}
    record = Record("glue-score", "SST-2", method, seed=run.seed, data="same", metrics=metrics, extra=extra)
    record.command = shlex.join(plan.command(run))
    place = folder / "results" / run.name / (stage or run.last) / "dev"
    save_record(record, place)
    save_answers(place, LABELS, answers)


def test_the_table_is_made_of_the_records(plan, tmp_path):
    made = plan(tasks="SST-2", seeds=1, python=sys.executable)
    lora, heads = made.known["SST-2/lora-seed1"], made.known["SST-2/heads-seed1"]
    worse = [1 - LABELS[0], *LABELS[1:]]
    save(tmp_path, made, lora, "lora", LABELS)
    save(tmp_path, made, heads, "dsee-h3-untuned", [0] * len(LABELS), 800, "2nd/")
    save(tmp_path, made, heads, "dsee-h3", worse, 800)
    save(tmp_path, made, heads, "dsee-h3", LABELS, 800, "speed", 4.0)  # of which only the time counts
    words = " --max_seq_length 128 --per_device_train_batch_size 32 --train_sampling_strategy group_by_length"
    full = Record("glue-score", "SST-2", "full", seed=1, data="same", command=f"run.py{words}")
    full.metrics = [Metric("accuracy", 98.0, "%", subset="dev")]
    full.extra = {"model": "bert", "diff": {"method": "full", "total": 1000, "density": 1.0, "bytes": 4000}}
    save_record(full, tmp_path / "diff/SST-2/full-seed1/dev")
    full.method, full.command = "diff-structured-0.5%", full.command.replace("size 32", "size 8")
    save_record(full, tmp_path / "diff/SST-2/structured-0.005-seed1/dev")

    text = made.write_tables()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    columns = next(row for row in cells if row[0] == "method")
    rows = {row[0]: dict(zip(columns, row)) for row in cells if len(row) == len(columns)}
    assert list(rows)[2:5] == ["full", "lora", "dsee-2-epochs"]
    assert rows["lora"]["accuracy dev (%)"] == "100.00" and rows["lora"]["runs"] == "1 of 1"
    assert rows["dsee"]["accuracy dev (%)"] == rows["dsee"]["bytes"] == "not measured"
    row = rows["dsee-h3"]
    assert row["accuracy dev (%)"] == "96.88" and row["before stage III"] == "37.50"
    assert row["difference to lora"].startswith("-3.12 (-9.38 to") and row["numbers that learn"] == "80"
    assert (row["weights left (%)"], row["FLOPs (%)"], row["ms"]) == ("80.00", "80.00", "10.00")
    assert row["times as fast"] == "4.00 (1.50 to 2.50)" and row["bytes"] == "512"
    assert (rows["full"]["difference to lora"], rows["full"]["numbers that learn"]) == ("-2.00", "1,000")
    assert "dsee-h3-untuned" not in rows and "diff-structured-0.5%" not in rows
    assert (
        "left out of results/diff: diff-structured-0.5%: per_device_train_batch_size: 8 there, 32 here"
        in text
    )
    assert (
        not made.uncompared()
        and "paired bootstrap" in text
        and (tmp_path / "results/SST-2/table.csv").is_file()
    )
    assert 'Not measured: MRPC (`make dsee TASKS="MRPC"`)' in text


def test_records_of_other_settings_are_no_result_of_this_pipeline(plan, tmp_path):
    made = plan(tasks="SST-2", seeds=1)
    run = made.known["SST-2/heads-seed1"]
    save(tmp_path, made, run, "dsee-h3", LABELS)
    made.check()
    path = tmp_path / "results" / run.name / "3rd/dev"
    record = Record("glue-score", "SST-2", "dsee-h3", command=shlex.join(made.command(run)))
    for change in (("heads_num 3", "heads_num 2"), ("learning_rate 0.001", "learning_rate 4e-3")):
        save_record(Record(**{**vars(record), "command": record.command.replace(*change)}), path)
        with pytest.raises(ValueError, match="SST-2/heads-seed1 is of other settings"):
            made.check()
