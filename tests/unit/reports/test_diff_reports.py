"""What a report says of sparse diffs: rows, averages, pictures by their pixels, and the page."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest

from dsp_plugin.records.kept_heads import kept_heads
from dsp_plugin.records.record import Metric, Record, method_label, save_record
from dsp_plugin.reports.pictures.diffs import density_png, share_png, short_names
from dsp_plugin.reports.report import make_report
from dsp_plugin.reports.tables.diffs import DiffMethod, across_rows, diff_rows, read_method
from dsp_plugin.reports.tables.rows import Spread, markdown_table

TOTAL = 10_000
HEADS = kept_heads({"blocks": [{"name": "layer.0", "kind": "encoder-self", "num_heads": 4}]}, [True] * 4)
SCORE = "f1 dev (%)"


def told(method: str, nonzeros: int) -> dict:
    layers = [
        ("bert.embeddings", 6000, nonzeros // 4, 2),
        ("bert.encoder.layer.0", 4000, nonzeros - nonzeros // 4, 8),
    ]
    keys = ("layer", "weights", "nonzeros", "tensors")
    return {
        "method": method,
        "total": TOTAL,
        "density": nonzeros / TOTAL,
        "nonzeros": nonzeros,
        "positions": nonzeros,
        "bytes": 100 + 4 * nonzeros,
        "full_bytes": 40_000,
        "tensors": 10,
        "untouched": 3 if nonzeros else 10,
        "layers": [dict(zip(keys, layer)) for layer in layers],
    }


def record(label: str, value: float, seed: int = 1, name: str = "MRPC", diff: dict | None = None) -> Record:
    kind = read_method(label)
    diff = diff or told(kind.method, round((kind.percent or 0) / 100 * TOTAL))
    extra = {"main_metric": "f1", "diff": diff}
    metrics = [Metric("f1", value, "%", subset="dev"), Metric("accuracy", value - 10, "%", subset="dev")]
    return Record(
        "glue-score",
        name,
        label,
        seed=seed,
        metrics=metrics,
        heads=HEADS,
        command=f"run {label}",
        extra=extra,
    )


FULL = {"method": "full", "total": TOTAL, "density": 1.0, "bytes": 40_000, "full_bytes": 40_000}


def records(name: str = "MRPC", more: float = 0.0) -> list[Record]:
    return [
        record("diff-structured-0.5%", 88 + more, name=name),
        record("diff-structured-0.5%", 90 + more, seed=2, name=name),
        record("diff-structured-0.5%-projected", 80 + more, name=name),
        record("diff-structured-10%", 91 + more, name=name),
        record(
            "diff-structured-unprojected",
            92 + more,
            name=name,
            diff={"method": "diff-structured", "total": TOTAL, "density": 0.62},
        ),
        record("last-layer", 70 + more, name=name),
        record("non-adaptive-0.5%", 84 + more, name=name),
        record("full", 89.5 + more, name=name, diff=FULL),
        Record(
            "glue-score",
            name,
            "dsp-joint",
            seed=1,
            metrics=[Metric("f1", 60.0, "%", subset="dev")],
            heads=HEADS,
        ),
    ]


@pytest.mark.parametrize(
    "label, method",
    [
        ("diff-structured-0.25%", DiffMethod("diff-structured", 0.25)),
        ("non-adaptive-1%-projected", DiffMethod("non-adaptive", 1.0, "projected")),
        ("diff-unstructured-unprojected", DiffMethod("diff-unstructured", None, "unprojected")),
        ("full", DiffMethod("full", 100.0)),
        ("last-layer", DiffMethod("last-layer", 0.0)),
        ("of my own", DiffMethod("of my own")),
    ],
)
def test_what_a_method_says(label, method):
    assert read_method(label) == method


def test_a_label_is_that_of_the_programs():
    assert [method_label("diff-structured", density) for density in (0.005, 0.0025, 0.01, 1)] == [
        "diff-structured-0.5%",
        "diff-structured-0.25%",
        "diff-structured-1%",
        "diff-structured-100%",
    ]


def test_rows():
    expected = ["full", "diff-structured-0.5%", "diff-unstructured-0.5%"]
    rows, columns = diff_rows(records(), "f1", expected, ["dev"], seeds=2)
    assert [(row["method"], row["density"]) for row in rows] == [
        ("full", "100%"),
        ("last-layer", "0%"),
        ("non-adaptive", "0.5%"),
        ("diff-unstructured", "0.5%"),
        ("diff-structured", "10%"),
        ("diff-structured", "0.5%"),
        ("diff-structured, unprojected", "62%"),
    ]
    assert columns[:5] == ["method", "density", SCORE, "accuracy dev (%)", "difference to full"]
    by_name = {(row["method"], row["density"]): row for row in rows}
    structured = by_name["diff-structured", "0.5%"]
    assert (
        structured[SCORE] == Spread(89.0, pytest.approx(2**0.5), 2)
        and structured["difference to full"] == -0.5
    )
    assert structured["before stage 3"] == 80 and structured["runs"] == "2 of 2"
    assert (
        structured["non-zeros"] == 50
        and structured["bytes"] == 300
        and structured["untouched tensors of 10"] == 3
    )
    assert structured["% of a full copy"] == Spread(0.75, 0.0, 2)
    full, missing = by_name["full", "100%"], by_name["diff-unstructured", "0.5%"]
    assert (
        full["non-zeros"],
        full["untouched tensors of 10"],
        full["% of a full copy"],
        full["before stage 3"],
    ) == (TOTAL, 0, 100, "")
    assert {missing[column] for column in columns[2:-1]} == {None} and missing["runs"] == "0 of 2"
    assert by_name["diff-structured, unprojected", "62%"]["bytes"] == ""
    assert markdown_table(rows, columns).count("not measured") >= 8


def test_a_table_without_any_record():
    rows, columns = diff_rows([], "f1", ["full", "diff-structured-0.5%"], ["dev"], seeds=1)
    assert (
        [row["runs"] for row in rows] == ["0 of 1"] * 2
        and {row["f1 dev"] for row in rows} == {None}
        and "bytes" in columns
    )
    assert diff_rows(records()[-1:], "f1") == ([], ["method", "density"])


def test_settings_side_by_side():
    tables = {name: diff_rows(records(name, more), "f1")[0] for name, more in (("MRPC", 0.0), ("RTE", -10.0))}
    tables["SQuAD"] = diff_rows([record("full", 50, diff=FULL), record("diff-structured-1%", 60)], "f1")[0]
    rows, columns = across_rows(tables, dict.fromkeys(tables, SCORE), ["MRPC", "RTE"])
    assert columns == ["method", "density", "MRPC", "RTE", "SQuAD", "average of 2", "difference to full"]
    by_name = {(row["method"], row["density"]): row for row in rows}
    assert (
        by_name["diff-structured", "0.5%"]["average of 2"] == 84
        and by_name["full", "100%"]["average of 2"] == 84.5
    )
    assert by_name["diff-structured", "0.5%"]["difference to full"] == -0.5
    assert (
        by_name["diff-structured", "1%"]["SQuAD"] == 60
        and by_name["diff-structured", "1%"]["average of 2"] is None
    )
    assert not [method for method, _ in by_name if "unprojected" in method]
    rows, columns = across_rows(tables, dict.fromkeys(tables, "untouched tensors of 10"))
    assert columns == ["method", "density", "MRPC", "RTE", "SQuAD"] and rows[-1]["MRPC"] == 3


# ---- pictures


def pixels(path) -> np.ndarray:
    return np.round(matplotlib.image.imread(path)[..., :3] * 255).astype(int)


def places(path, colour) -> np.ndarray:
    """Rows (from the top) and columns of the pixels of this colour."""
    return np.argwhere((pixels(path) == colour).all(axis=-1))


BLUE, VERMILLION, GREY = (0, 114, 178), (213, 94, 0), (107, 107, 107)


def test_a_higher_score_stands_higher_and_a_higher_density_to_the_right(tmp_path):
    path = tmp_path / "density.png"
    points = {"a": {0.001: [80.0, 82.0], 0.01: [90.0]}, "b": {0.01: [60.0]}, "full": {1.0: [95.0]}}
    density_png(points, path, "f1 (%)", "title", ["full", "a", "b"])
    line = places(path, BLUE)[: len(places(path, BLUE)) // 2]  # above the legend
    assert line[line[:, 1].argmax(), 0] < line[line[:, 1].argmin(), 0]
    assert places(path, VERMILLION)[0, 0] > line[0, 0]  # b is below a
    grey = places(path, GREY)
    assert grey[0, 0] < line[0, 0] and np.ptp(grey[grey[:, 0] == grey[0, 0], 1]) > 0.8 * pixels(path).shape[1]
    density_png({"b": {0.01: [60.0]}}, path, "f1", methods=["a", "b"])
    assert len(places(path, VERMILLION)) and not len(places(path, BLUE))


def test_the_darkest_cell_has_the_largest_share(tmp_path):
    path = tmp_path / "share.png"
    layers = [
        {"layer": f"bert.encoder.layer.{n}", "weights": 100, "nonzeros": nonzeros}
        for n, nonzeros in enumerate((1, 0, 99))
    ]
    share_png([("a pack", layers)], path)
    image = pixels(path).sum(axis=-1)
    dark = np.argwhere(pixels(path)[..., 2] - pixels(path)[..., 0] > 90)  # blue, no shade of grey
    assert dark[:, 1].min() > 0.6 * image.shape[1] and dark[:, 0].min() > 0.5 * image.shape[0]


@pytest.mark.parametrize(
    "points, message",
    [
        ({}, "nothing"),
        ({"full": {1.0: [3.0]}}, "nothing"),
        ({"a": {0.0: [1.0]}}, r"\(0, 1\]"),
        ({"a": {0.1: [np.nan]}}, "finite"),
    ],
)
def test_a_curve_refuses(tmp_path, points, message):
    with pytest.raises(ValueError, match=message):
        density_png(points, tmp_path / "x.png", "f1")
    assert not list(tmp_path.iterdir())


def test_a_map_of_layers_refuses(tmp_path):
    one = [{"layer": "a", "weights": 5, "nonzeros": 1}]
    for packs, message in (
        ([], "no pack"),
        ([("a", one), ("b", [{"layer": "b", "weights": 5, "nonzeros": 1}])], "different models"),
        ([("a", [{"layer": "a", "weights": 5, "nonzeros": 0}])], "without any nonzeros"),
    ):
        with pytest.raises(ValueError, match=message):
            share_png(packs, tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_short_names_stay_apart():
    assert short_names(["bert.embeddings", "bert.encoder.layer.0", "bert.pooler"]) == [
        "embeddings",
        "layer 0",
        "pooler",
    ]
    assert short_names(["encoder.layers.0", "decoder.layers.0"]) == ["encoder 0", "decoder 0"]
    assert short_names(["a.h.0", "b.h.0"]) == ["a.h 0", "b.h 0"]
    assert short_names(["a.x", "b.x"]) == ["a.x", "b.x"]


# ---- the page


@pytest.fixture
def page(tmp_path):
    for name, more in (("MRPC", 0.0), ("RTE", -10.0)):
        for number, one in enumerate(records(name, more)):
            save_record(one, tmp_path / "results" / name / str(number))
    report = make_report(tmp_path / "results", tmp_path / "report")
    assert report.problems == []
    return tmp_path / "report"


def test_the_page_has_each_setting_and_all_side_by_side(page):
    text = (page / "index.html").read_text()
    for heading in ("Sparse diffs</h3>", "Sparse diffs: MRPC, RTE</h2>"):
        assert heading in text
    names = {path.name for path in page.glob("pictures/*.png")}
    assert names >= {
        "MRPC-density.png",
        "MRPC-sizes.png",
        "MRPC-layers.png",
        "RTE-layers.png",
        "diffs-density.png",
    }
    assert (
        names >= {"diffs-layers-diff-structured-0.5.png", "diffs-storage.png"}
        and "diffs-layers-non-adaptive-0.5.png" not in names
    )
    assert {path.name for path in page.glob("tables/*diffs*.md")} == {
        "MRPC-diffs.md",
        "RTE-diffs.md",
        "diffs.md",
        "diffs-untouched.md",
    }
    assert (
        "average: of MRPC, RTE" in text and "89.00 ± 1.41" in (page / "tables" / "MRPC-diffs.md").read_text()
    )


def test_bases_are_kept_apart_and_a_pack_of_two_test_sets_counts_once(tmp_path):
    for name, more in (("MRPC", 0.0), ("RTE", -10.0)):
        for number, one in enumerate(records(name, more)):
            save_record(one, tmp_path / "results" / name / str(number))
    other = {**told("diff-structured", 40), "total": 7000, "fingerprint": "0123456789abcdef"}
    for name in ("captions", "talks"):
        save_record(record("diff-structured-0.5%", 30.0, name=name, diff=other), tmp_path / "results" / name)
    report = make_report(tmp_path / "results", tmp_path / "report")
    text = (tmp_path / "report" / "index.html").read_text()
    assert (
        report.problems == []
        and "Sparse diffs: MRPC, RTE</h2>" in text
        and "Sparse diffs: captions, talks</h2>" in text
    )
    names = {path.name for path in tmp_path.glob("report/pictures/*.png")}
    assert "diffs-storage.png" in names and not [name for name in names if name.startswith("diffs-2")]
    assert "captions" not in (tmp_path / "report" / "tables" / "diffs.md").read_text()


def test_what_is_about_heads_has_no_diffs_in_it(page):
    table = (page / "tables" / "MRPC.md").read_text()
    assert "dsp-joint" in table and "diff" not in table
    assert not list(page.glob("pictures/MRPC-f1*.png"))  # one run of heads: nothing to draw a curve of


def test_diffs_without_details_make_a_table_still(tmp_path):
    for label, value in (("base", 30.0), ("diff-structured-0.5%", 33.0)):
        told = {"method": label, "total": TOTAL, "density": 0.005}
        one = Record(
            "mt-bleu",
            "iwslt",
            label,
            seed=1,
            metrics=[Metric("BLEU", value, subset="test")],
            extra={"diff": told},
        )
        save_record(one, tmp_path / "results" / label.rstrip("%"))
    report = make_report(tmp_path / "results", tmp_path / "report")
    assert (
        report.problems == [] and "33.00" in (tmp_path / "report" / "tables" / "iwslt-diffs.md").read_text()
    )


def test_records_that_contradict_each_other_leave_the_rest(tmp_path):
    for number, one in enumerate([*records(), record("diff-structured-0.5%", 12.0)]):
        save_record(one, tmp_path / "results" / str(number))
    report = make_report(tmp_path / "results", tmp_path / "report")
    assert len(report.problems) == 1 and "differ in f1 dev" in report.problems[0]
    assert "dsp-joint" in (tmp_path / "report" / "tables" / "MRPC.md").read_text()
