"""What a report says of Delta-Tuning: combinations by task and side by side, orders, transfer; pictures."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest

from dsp_plugin.records.record import Metric, Record, save_record
from dsp_plugin.reports.pictures.delta import heat_png
from dsp_plugin.reports.report import make_report
from dsp_plugin.reports.tables.delta import combination_rows, order_rows, rates_note, taken, transfer_rows
from dsp_plugin.reports.tables.delta_runs import Run
from dsp_plugin.reports.tables.rows import Spread

METRICS = {"SST-2": "accuracy", "CoLA": "mcc"}
ALL = "prompt+bias+adapter"


def run(
    method: str, seed: int, test: float, dev: float = 50.0, rate: float = 1e-3, task: str = "SST-2", **about
):
    """What one run has scored; all weights learn where the method is `full`."""
    known = {"task": task, "method": method, "seed": seed, "learning_rate": rate, "tag": "few", "num_k": 16}
    known |= {"model": "mlm", "template": "", "few_shot_type": "prompt", **about}
    figures = {"added": 700, "task_head": 0, "base": 70_000, "bytes": 3000 + seed}
    metric = METRICS[task]
    return Run(
        known,
        f"{task}/{method}-{rate}-{seed}",
        dev,
        {metric: dev},
        {metric: test},
        {"learning_rate": rate} if method == "full" else figures,
        70_000,
    )


def test_combinations_stand_in_the_layout_of_the_paper():
    tables = {
        "SST-2": taken(
            [
                run("bias", 1, 10.0, dev=70.0, rate=1e-2),  # what is best on test is not taken
                run("bias", 1, 90.0, dev=60.0, rate=1e-3),
                run("bias", 2, 20.0),
                run(ALL, 1, 40.0),
                run("full", 1, 70.0),
            ]
        ),
        "CoLA": taken([run("bias", 1, 5.0, task="CoLA"), run("full", 1, 50.0, task="CoLA")]),
    }
    rows, columns = combination_rows(tables, METRICS, ["bias", "prompt"], seeds={"SST-2": 2, "CoLA": 1})
    bias, prompt, full, every = rows
    assert [row["method"] for row in rows] == ["bias", "prompt", "full", ALL]
    assert bias["SST-2 accuracy test (%)"] == Spread(15.0, pytest.approx(50**0.5), 2)
    assert (bias["tunable"], bias["share (%)"], bias["bytes"]) == (700, 1.0, 3001)
    assert bias["average"] == 10.0 and every["average"] is None and full["average"] == 60.0
    assert (full["tunable"], full["share (%)"], full["bytes"]) == (70_000, 100.0, "a model")
    assert prompt["SST-2 accuracy test (%)"] is None and prompt["tunable"] is None
    assert (bias["runs"], prompt["runs"]) == ("3 of 3", "0 of 3")
    assert [every[name] for name in ("prompt", "bias", "adapter")] == ["+", "+", "+"]
    assert [bias[name] for name in ("prompt", "bias", "adapter")] == ["", "+", ""]
    assert columns[:4] == ["method", "prompt", "bias", "adapter"]
    assert rates_note(tables, ["full"]) == (
        f"learning rates: SST-2: full 0.001, bias 0.001 and 0.01, {ALL} 0.001; CoLA: full 0.001, bias 0.001"
    )


def test_runs_that_differ_in_more_than_the_rate_are_no_row():
    with pytest.raises(ValueError, match="SST-2, bias: runs that differ in model, template"):
        taken([run("bias", 1, 1.0), run("bias", 1, 2.0, model="other")])


def test_orders_have_the_score_after_each_stage():
    found = taken([run("bias", 1, 60.0), run("bias-then-prompt", 1, 64.0)])
    rows, _ = order_rows(found, [("bias", "prompt"), ("prompt", "bias")], "accuracy")
    assert rows[0]["method"] == "bias-then-prompt" and rows[1]["tunable"] is None
    assert (rows[0]["accuracy after stage 1"], rows[0]["accuracy after stage 2"]) == (60.0, 64.0)
    assert rows[1]["accuracy after stage 2"] is None and rows[0]["runs"] == 1


def test_transfer_is_relative_to_the_training_from_scratch():
    tables = {
        "SST-2": taken([run("bias", 1, 80.0), run("bias-from-CoLA", 1, 60.0)]),
        "CoLA": taken([run("bias", 1, -2.0, task="CoLA"), run("bias-from-SST-2", 1, 4.0, task="CoLA")]),
    }
    rows, _ = transfer_rows(tables, METRICS, "bias")
    by_method = {row["method"]: row for row in rows}
    assert by_method["bias"]["SST-2, relative (%)"] == 100.0
    assert by_method["bias-from-CoLA"]["SST-2, relative (%)"] == 75.0
    assert by_method["bias-from-CoLA"]["CoLA, relative (%)"] == ""  # on itself
    assert by_method["bias-from-SST-2"]["CoLA mcc test (%)"] == 4.0
    assert by_method["bias-from-SST-2"]["CoLA, relative (%)"] == ""  # scratch is not above 0


def save(folder, one: Run, task: str) -> None:
    metric = METRICS[task]
    about = one.about
    extra = {**one.figures, **{name: about[name] for name in ("tag", "num_k", "learning_rate", "template")}}
    for split, value in (("dev", one.dev), ("test", one.test_metrics[metric])):
        record = Record("glue-score", task, about["method"], seed=about["seed"])
        record.metrics = [Metric(metric, value, "%", subset=split)]
        record.extra = {"delta": {"few_shot_type": "prompt", "stages": [], "of_stages": 0, **extra}}
        record.extra |= {"model": "mlm", "main_metric": metric}
        save_record(record, folder / one.folder / split)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    for task in METRICS:
        other = {"SST-2": "CoLA", "CoLA": "SST-2"}[task]
        for rate in (1e-3, 1e-2):  # two runs of one method and seed, which differ in their rate
            save(folder / "results", run("bias", 1, 80.0, dev=50 + rate, rate=rate, task=task), task)
        save(folder / "results", run(f"bias-from-{other}", 1, 60.0, task=task, tag="transfer"), task)
        save(folder / "results", run("adapter", 1, 70.0, task=task), task)
    report = make_report(folder / "results", folder / "report")
    assert not report.problems
    return folder / "report", (folder / "report/index.html").read_text()


def test_the_page_has_tables_and_pictures(page):
    folder, text = page
    assert "Delta-Tuning: few, 16 examples a class" in text and "Delta-Tuning, task by task" in text
    one = (folder / "tables/SST-2-delta-few-16-examples-a-class.md").read_text()
    assert "| bias " in one and "bias 0.01" in one and "from-CoLA" not in one
    both = (folder / "tables/delta-few-16-examples-a-class.md").read_text()
    assert "CoLA mcc test (%)" in both and "average" in both
    transfer = (folder / "tables/delta-transfer-bias.md").read_text()
    assert "| bias-from-SST-2 |" in transfer and "75.00" in transfer
    pictures = {path.name for path in folder.glob("pictures/*.png")}
    assert {"delta-transfer-bias.png", "delta-few-16-examples-a-class.png"} <= pictures
    assert not (folder / "tables/SST-2.md").exists()  # they are no rows among those of heads


def test_cells_are_darker_where_the_score_is_higher_and_empty_where_there_is_none(tmp_path):
    cells = [[(1.0, ""), None], [(3.0, ""), (5.0, "")]]
    heat_png(cells, ["a", "b"], ["x", "y"], tmp_path / "heat.png")
    picture = matplotlib.image.imread(tmp_path / "heat.png")[..., :3]
    colours, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    big = [tuple(colour) for colour, count in zip(colours, counts) if count > 0.02 * counts.sum()]
    assert len(big) == 4  # white with the empty cell, the lowest, the highest, and a column of one value
    assert min(map(sum, big)) < 1.5 and max(map(sum, big)) == 3.0
    for wrong in ([[None]], [[(float("nan"), "x")]]):
        with pytest.raises(ValueError, match="nothing to draw|finite"):
            heat_png(wrong, ["a"], ["x"], tmp_path / "no.png")
    assert not (tmp_path / "no.png").exists()


def test_a_common_scale_has_two_colours_on_both_sides_of_its_middle(tmp_path):
    heat_png([[(50.0, ""), (150.0, "")]], ["a"], ["x", "y"], tmp_path / "heat.png", middle=100.0)
    picture = matplotlib.image.imread(tmp_path / "heat.png")[..., :3].reshape(-1, 3)
    warm = (picture[:, 0] > picture[:, 2] + 0.2).mean()
    cold = (picture[:, 2] > picture[:, 0] + 0.1).mean()
    assert warm == pytest.approx(cold, rel=0.1) and warm > 0.1
