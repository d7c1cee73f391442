"""What a report says of DSEE: rows beside LoRA, full finetuning and diffs; the page; marks by pixels."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest

from dsp_plugin.records.kept_heads import kept_heads
from dsp_plugin.records.record import Metric, Record, save_record
from dsp_plugin.reports.pictures.dsee import cost_png
from dsp_plugin.reports.report import make_report
from dsp_plugin.reports.tables.dsee import dsee_rows

SCORE = "f1 dev (%)"
BLOCKS = [{"name": "layer.0", "kind": "encoder-self", "num_heads": 4}]


def record(label: str, value: float, seed: int = 1, left: int = 1000, **extra) -> Record:
    account = {"trainable": 60, "update_nonzeros": {"low_rank": 50, "task_head": 2}, "base_weights": 1000}
    account |= {"weights_left": left, "merged_nonzeros": left, "bytes": 300, "batch": [8, 16]}
    account |= {"flops": {"base": 200, "deployed": left // 5}}
    account["latency"] = {
        "deployed": 0.01,
        "speedup": 1.5,
        "least": 1.0 + seed / 10,
        "most": 2.0,
        "threads": 1,
    }
    return Record(
        "glue-score",
        "MRPC",
        label,
        seed=seed,
        metrics=[Metric("f1", value, "%", subset="dev")],
        heads=kept_heads({"blocks": BLOCKS}, [True, True, True, left == 1000]),
        extra={"main_metric": "f1", **(extra or {"dsee": account})},
    )


def records() -> list[Record]:
    diff = {"total": 1000, "density": 0.005, "nonzeros": 5, "bytes": 100, "full_bytes": 4000}
    full = {"total": 1000, "density": 1.0, "bytes": 4000, "full_bytes": 4000}
    return [
        record("lora", 80.0),
        record("lora", 82.0, seed=2),
        record("dsee-h1", 79.0, left=800),
        record("dsee-h1-untuned", 50.0, left=800),
        record("diff-structured-0.5%", 81.0, diff={"method": "diff-structured", **diff}),
        record("diff-structured-0.5%-projected", 12.0, diff={"method": "diff-structured", **diff}),
        record("full", 85.0, diff={"method": "full", **full}),
        record("dsp-joint", 60.0, other={}),
    ]


def test_rows():
    rows, columns = dsee_rows(records(), "f1", ["lora", "dsee"], ["dev"], 2)
    assert [row["method"] for row in rows] == ["full", "diff-structured-0.5%", "lora", "dsee", "dsee-h1"]
    by_label = {row["method"]: row for row in rows}
    lora, pruned, full = by_label["lora"], by_label["dsee-h1"], by_label["full"]
    assert lora[SCORE].mean == 81.0 and lora["runs"] == "2 of 2"
    assert lora["times as fast"] == "1.50 (1.10 to 2.00)"  # the range of all pairs of both seeds
    assert pruned["difference to lora"] == -2.0 and pruned["before stage III"] == 50.0
    assert (pruned["weights left (%)"], pruned["FLOPs (%)"], pruned["bytes"]) == (80.0, 80.0, 300)
    assert (pruned["numbers that learn"], pruned["not zero in the update"]) == (60, 52)
    assert (full["numbers that learn"], full["bytes"], full["difference to lora"]) == (1000, 4000, 4.0)
    assert by_label["diff-structured-0.5%"]["numbers that learn"] == 5
    assert by_label["dsee"][SCORE] is None and by_label["dsee"]["bytes"] is None
    assert columns[:3] == ["method", SCORE, "difference to lora"]


def test_a_difference_with_an_interval_stands_as_it_is():
    rows, _ = dsee_rows(records(), "f1", differences={"dsee-h1": "-2.00 (-3.00 to -1.00)"})
    assert [row["difference to lora"] for row in rows if row["method"] == "dsee-h1"] == [
        "-2.00 (-3.00 to -1.00)"
    ]


def test_what_the_records_of_a_run_say_is_joined():
    training, translation = record("dsee", 30.0), record("dsee", 30.0)
    training.metrics, translation.extra["dsee"] = [], {"trained": 60, "bytes": 300}
    (row,), _ = dsee_rows([translation, training], "f1")
    assert (row["weights left (%)"], row["numbers that learn"], row["bytes"]) == (100.0, 60, 300)
    (row,), _ = dsee_rows([translation], "f1")
    assert (row["weights left (%)"], row["numbers that learn"], row["times as fast"]) == (None, 60, None)


def test_no_record_at_all():
    rows, columns = dsee_rows([], "f1", ["lora"], ["dev"], 1)
    assert rows[0]["f1 dev"] is None and rows[0]["runs"] == "0 of 1" and rows[0]["bytes"] is None


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    for number, one in enumerate(records()):
        save_record(one, folder / "results" / str(number))
    report = make_report(folder / "results", folder / "report")
    assert not report.problems
    return folder / "report", (folder / "report" / "index.html").read_text()


def test_the_page_has_them_beside_the_others_and_not_among_the_heads(page):
    folder, text = page
    assert ">DSEE<" in text and "Sparse diffs" in text
    table = (folder / "tables" / "MRPC-dsee.md").read_text()
    for method in ("lora", "dsee-h1", "full", "diff-structured-0.5%"):
        assert f"| {method} " in table
    assert "dsp-joint" not in table and "untuned" not in table
    heads = (folder / "tables" / "MRPC.md").read_text()
    assert "dsp-joint" in heads and "dsee" not in heads and "lora" not in heads
    assert {"MRPC-dsee-learns.png", "MRPC-dsee-bytes.png"} <= {p.name for p in folder.glob("pictures/*")}


def test_a_higher_score_stands_higher_and_a_higher_cost_to_the_right(tmp_path):
    points = {"a": (100.0, [80.0, 82.0]), "b": (1e6, [60.0])}
    cost_png(points, tmp_path / "cost.png", "bytes", "f1 (%)", methods=["a", "b"])
    picture = matplotlib.image.imread(tmp_path / "cost.png")[..., :3]
    places = []
    for colour in ("#0072B2", "#D55E00"):
        wanted = np.array([int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)])
        rows, columns = np.nonzero(np.abs(picture - wanted).max(axis=2) < 0.02)
        inside = rows < 0.8 * len(picture)  # not in the legend
        places.append((rows[inside].mean(), columns[inside].mean()))
    assert places[0][0] < places[1][0] and places[0][1] < places[1][1]


@pytest.mark.parametrize(
    "points, said", [({}, "nothing to draw"), ({"a": (0.0, [1.0])}, "above 0"), ({"a": (1.0, [])}, "nothing")]
)
def test_marks_refuse(tmp_path, points, said):
    with pytest.raises(ValueError, match=said):
        cost_png(points, tmp_path / "cost.png", "bytes", "f1")
    assert not list(tmp_path.iterdir())
