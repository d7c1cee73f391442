"""The runs of Delta-Tuning: command lines, who waits for whom, rates by dev, what is left, the tables."""

from __future__ import annotations

import hf_programs  # noqa: F401  (first: see there)  isort: skip

import json
import shlex

import pytest
from pipeline_runs import ROOT, plans_in

from dsp_plugin.hf.programs.chassis.parsing import parse
from dsp_plugin.hf.programs.chassis.train import option_groups
from dsp_plugin.hf.programs.delta.arguments import DeltaArguments, PromptArguments
from dsp_plugin.hf.programs.delta.labels import label_of
from dsp_plugin.records.files.sealed import write_json
from dsp_plugin.records.record import Metric, Record, save_record
from pipelines.plans.delta import DeltaPlan
from pipelines.plans.delta_runs import PARTS


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """plan(**settings): everything in the test's folder."""
    monkeypatch.chdir(ROOT)
    return plans_in(tmp_path, DeltaPlan)


def understood(words: list[str]) -> dict:
    found = parse("", option_groups(PromptArguments, [DeltaArguments]), words[1:])
    for group in found:
        if hasattr(group, "check"):
            group.check()
    return {name: value for group in found for name, value in vars(group).items()}


def save(folder, plan, run, dev: float, test: float | None = None, **more) -> None:
    """Write the records of a run, as run.py does."""
    how = plan.settings.methods[run.last]
    stages = [stage.split("+") for stage in run.method.split("-then-")]
    label = how.get("method") or label_of(stages)
    if run.part == "transfer":
        label += f"-from-{run.source.task}"
    delta = {"tag": run.part, "few_shot_type": "prompt", "num_k": run.k or None, "stages": [], "of_stages": 0}
    delta |= {"learning_rate": plan.rate(run) if "rates" in how else None}
    if how.get("training_params"):
        delta |= {"added": 700, "task_head": 0, "base": 70_000, "bytes": 3000}
    metric = plan.metric(run.task)[0]
    command = shlex.join(plan.command(run))
    for split, score in (("dev", dev), ("test", dev if test is None else test)):
        record = Record("glue-score", run.task, label, seed=run.seed, command=command)
        record.metrics = [Metric(metric, score, "%", subset=split)]
        record.parameters = {"before": 70_000, "after": 70_000}
        record.extra = {"delta": {**delta, **more}, "main_metric": metric, "model": "mlm"}
        if split == "dev" or run.part != "full":
            save_record(record, folder / "results" / run.name / split)


def rows_of(text: str, title: str) -> dict[str, dict[str, str]]:
    """The rows of a table, by method."""
    section = text.split(f"## {title}\n", 1)[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(cells[0], row)) for row in cells[2:]}


def test_the_program_knows_all_that_is_asked_for(plan):
    made = plan(quick=4)
    for run in made.known.values():
        words = made.command(run)
        assert (ROOT / words[0]).is_file()
        found = understood([word if word != "RATE" else "1e-3" for word in words])
        trained = run.method != "none"
        assert found["do_train"] is trained and found["do_eval"] and found["seed"] == run.seed
        assert found["do_predict"] is (run.part != "full") and found["tag"] == run.part
        params = made.settings.methods[run.last].get("training_params")
        assert found["training_params"] == (None if params is None else [params])
        if run.source is not None:
            assert found["delta_checkpoint"] == str(made.model_file(run.source).parent)

    assert {run.part for run in made.runs} == {*PARTS}


def test_runs_of_each_table(plan):
    made = plan()
    few = {run.name for run in made.runs if run.part == "few"}
    assert {"SST-2/k16-none-seed13", "SST-2/k16-prompt+bias+adapter-seed100"} <= few
    assert "CoLA/k16-bias-lr0.003-seed13" in few and "CoLA/k16-bias-seed42" in few
    assert not {"CoLA/k16-bias-seed21", "SST-2/k16-bias-seed13"} & few
    orders = [run.method for run in made.runs if run.part == "orders"]
    assert len(orders) == len({*orders}) == 15  # 3 of one stage, 6 of two, 6 of three
    assert sum(method.count("-then-") == 2 for method in orders) == 6
    assert {run.task for run in made.runs if run.part == "full"} == {"CoLA", "MRPC"}
    assert {(run.source.task, run.task) for run in made.runs if run.part == "transfer"} == {
        (one, other) for one in made.options.tasks for other in made.options.tasks if one != other
    }
    named = plan(tasks="RTE", seeds="5 13", parts="few full")
    assert {run.task for run in named.runs} == {"RTE"} and {run.seed for run in named.runs} == {5, 13}
    with pytest.raises(ValueError, match="tasks SQuAD: the programs of Delta-Tuning are for GLUE's tasks"):
        plan(tasks="SQuAD")
    with pytest.raises(ValueError, match="parts orders: none of"):
        plan(parts="orders", only="SST-2/k16-")


def test_a_rate_is_the_best_on_dev_and_the_smallest_of_equal_ones(plan, tmp_path):
    made = plan(parts="few", tasks="SST-2")
    run = made.known["SST-2/k16-bias-seed42"]
    tried = made.choosers(run)
    assert made.rate(run) is None and "RATE" in made.command(run)
    assert {path for one in tried for path in made.missing(one)} <= {*made.source_of(run)}
    for one, dev in zip(tried, (60.0, 70.0, 70.0)):
        save(tmp_path, made, one, dev, test=100 - dev)
    assert made.rate(run) == min(made.settings.rates["bias"][1:])
    words = made.command(run)
    assert words[words.index("--learning_rate") + 1] == f"{made.rate(run):g}" and "RATE" not in words
    assert not [path for path in made.source_of(run) if "results" in path]


def test_what_a_run_waits_for(plan, tmp_path):
    made = plan(parts="orders transfer")
    stage = made.known["SST-2/orders-prompt-then-bias-seed13"]
    before = tmp_path / "results/SST-2/orders-prompt-seed13/dev/results.json"
    base = tmp_path / "runs/mlm/config.json"
    samples = [path for path in made.source_of(stage) if path.endswith("train.tsv")]
    assert {str(base), str(before), *samples} <= {*made.source_of(stage)} and len(samples) == 1
    # the first seed that is drawn, with which all others come
    assert samples == [str(tmp_path / "runs/data/k-shot/SST-2/16-100/train.tsv")]
    words = made.sampling("k-shot", "SST-2")
    assert words[words.index("--seed") + 1 :] == ["100", "13", "21", "42", "87"]
    transfer = made.known["CoLA/from-SST-2-adapter-seed13"]
    # no run of the table of full data, but what another one begins with
    assert "SST-2/full-adapter-seed13" not in {run.name for run in made.runs}
    assert str(tmp_path / "results/SST-2/full-adapter-seed13/dev/results.json") in made.source_of(transfer)
    for path in (base, tmp_path / "runs/data/k-shot/SST-2/16-13/train.tsv"):
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    assert not {str(base), *samples} & {*made.source_of(stage)}
    own = plan(parts="orders", masked="roberta-large")
    assert own.command(stage)[2] == "roberta-large" and str(base) not in own.source_of(stage)


def test_the_stages_of_an_order(plan):
    made = plan(parts="orders")
    first, last = (
        understood(
            [word.replace("RATE", "1e-3") for word in made.command(made.known[f"SST-2/orders-{name}-seed13"])]
        )
        for name in ("bias", "bias-then-adapter-then-prompt")
    )
    assert (first["max_steps"], last["max_steps"]) == (300, 300)
    assert first["eval_strategy"] == "no" and not first["load_best_model_at_end"]  # its last step counts
    assert last["load_best_model_at_end"] and last["metric_for_best_model"] == "eval_accuracy"


def test_the_tables_are_made_of_the_records(plan, tmp_path):
    made = plan(tasks="SST-2 CoLA", seeds="13 42")
    known = made.known
    for number, one in enumerate(made.choosers(known["SST-2/k16-bias-seed42"])):
        save(tmp_path, made, one, 60.0 + number, test=70.0 + number)
    save(tmp_path, made, known["SST-2/k16-bias-seed42"], 60.0, test=76.0)
    save(tmp_path, made, known["SST-2/k16-none-seed13"], 50.0, test=51.0)
    for name in ("SST-2", "CoLA"):
        for number, one in enumerate(made.choosers(known[f"{name}/k16-adapter-seed42"])):
            save(tmp_path, made, one, 60.0 + number, test=80.0)
    save(tmp_path, made, known["SST-2/k16-finetune-lr0.0001-seed13"], 55.0, test=56.0)
    for rate in made.choosers(known["SST-2/k16-prompt-seed42"]):
        save(tmp_path, made, rate, 60.0, test=72.0)
    for stages in ("prompt", "prompt-then-bias"):
        save(tmp_path, made, known[f"SST-2/orders-{stages}-seed13"], 50.0, test=64.0)
    save(tmp_path, made, known["CoLA/from-SST-2-adapter-seed13"], 50.0, test=84.0)
    save(tmp_path, made, known["CoLA/full-adapter-seed13"], 30.0)
    text = made.write_tables()
    few = rows_of(text, "16 examples a class")
    assert few["bias"]["SST-2 accuracy test (%)"] == "74.00 ± 2.83" and few["bias"]["runs"] == "2 of 4"
    assert (few["bias"]["tunable"], few["bias"]["share (%)"], few["bias"]["bytes"]) == (
        "700",
        "1.00",
        "3,000",
    )
    assert (few["bias"]["prompt"], few["bias"]["bias"]) == ("", "+")
    assert (few["none"]["SST-2 accuracy test (%)"], few["none"]["runs"]) == ("51.00", "1 of 2")
    assert few["full-finetune"]["tunable"] == "70,000" and few["full-finetune"]["bytes"] == "a model"
    assert few["prompt+bias"]["CoLA matthews_correlation test (%)"] == "not measured"
    assert few["adapter"]["average"] == "80.00" and few["bias"]["average"] == "not measured"
    orders = rows_of(text, "SST-2, three stages in every order, 16 examples a class")
    assert orders["prompt-then-bias-then-adapter"]["accuracy after stage 2"] == "64.00"
    assert orders["prompt-then-bias-then-adapter"]["accuracy after stage 3"] == "not measured"
    transfer = rows_of(text, "From task to task, adapter, 16 examples a class")
    assert transfer["adapter-from-SST-2"]["CoLA, relative (%)"] == "105.00"
    assert transfer["adapter-from-SST-2"]["SST-2, relative (%)"] == ""
    assert transfer["adapter-from-CoLA"]["SST-2, relative (%)"] == "not measured"
    assert rows_of(text, "Whole training sets")["adapter"]["CoLA matthews_correlation dev (%)"] == "30.00"
    assert "SST-2: full-finetune 0.0001, prompt 0.001, bias 0.0003, adapter 0.0001; CoLA:" in text
    assert 'Not measured: STS-B, QQP, MNLI, QNLI, RTE (`make delta PARTS="few"' in text
    assert (tmp_path / "results/few.csv").is_file() and (tmp_path / "results/orders-SST-2.csv").is_file()


def test_other_settings_and_another_base_are_refused(plan, tmp_path):
    made = plan(parts="full", tasks="CoLA")
    run = made.known["CoLA/full-bias-seed13"]
    save(tmp_path, made, run, 30.0)
    made.check()
    record = Record("mlm-train", "masked words", "masked-lm", extra={"weights": {"model.safetensors": "ab"}})
    save_record(record, tmp_path / "results/mlm")
    with pytest.raises(ValueError, match="no .*runs/mlm, the base of the records in"):
        made.check()
    sealed = {"files": {"model.safetensors": {"bytes": 1, "sha256": "ab"}}}
    write_json(tmp_path / "runs/mlm/checksums.json", json.dumps(sealed))
    made.check()
    sealed["files"]["model.safetensors"]["sha256"] = "cd"
    write_json(tmp_path / "runs/mlm/checksums.json", json.dumps(sealed))
    with pytest.raises(ValueError, match="is not the base of the records"):
        made.check()
    record = Record("glue-score", "CoLA", "bias", command=shlex.join(made.command(run)))
    record.command = record.command.replace("--training_params bias", "--training_params bias,adapter")
    save_record(record, tmp_path / "results" / run.name / "dev")
    with pytest.raises(ValueError, match="CoLA/full-bias-seed13 is of other settings: training_params"):
        made.check()
