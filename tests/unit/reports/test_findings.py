"""What a report opens with: the best of each budget, sentences, the short table, the picture."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest

from dsp_plugin.records.kept_heads import kept_heads
from dsp_plugin.reports.findings import diff_findings, head_findings, sentences
from dsp_plugin.reports.pictures.overview import overview_png
from dsp_plugin.reports.tables.rows import PValue, Spread
from dsp_plugin.reports.tables.short import short_table


def row(method: str, kept: int, score: float | Spread | None, **columns) -> dict:
    return {"method": method, "K": f"{kept}/24", "BLEU test": score, "runs": 1, **columns}


def test_the_best_of_each_budget_in_sentences():
    rows = [row("unpruned", 24, 38.0), row("a", 6, 30.0), row("b", 6, 36.5, **{"p test": PValue(0.002)})]
    rows += [row("a", 12, 38.5), row("c", 12, None), row("headless", 24, 99.0)]
    found = head_findings(rows, "BLEU test", "unpruned")
    assert [(one.budget, one.row["method"], one.methods) for one in found] == [
        ("12 of 24 heads", "a", 1),
        ("6 of 24 heads", "b", 2),
    ]
    assert sentences(found, rows, "BLEU test", "unpruned") == [
        "unpruned, 24 of 24 heads: BLEU test 38.00.",
        "12 of 24 heads: a has 38.50, 0.50 above unpruned (not tested).",
        "6 of 24 heads: b, the best of 2 methods, has 36.50, 1.50 below unpruned (p = 0.002).",
        "One seed each: what another seed would give is not known.",
    ]


def test_no_sentence_claims_what_was_not_measured():
    rows = [row("a", 6, Spread(30.0, 1.0, 2), runs=2)]
    assert sentences(head_findings(rows, "BLEU test", "unpruned"), rows, "BLEU test", "unpruned") == [
        "BLEU test; there is no such score of unpruned.",
        "6 of 24 heads: a has 30.00 ± 1.00.",
        "Means over seeds, 2 of each method. Differences were not tested for significance.",
    ]
    assert head_findings([row("a", 6, None)], "BLEU test", "unpruned") == []


def test_of_a_loss_the_lowest_is_the_best():
    rows = [{"method": name, "K": "6/24", "loss test": value} for name, value in (("a", 2.0), ("b", 3.0))]
    assert [one.row["method"] for one in head_findings(rows, "loss test", "unpruned")] == ["a"]


def test_the_best_diffs_are_of_the_last_stage():
    rows = [
        {"method": method, "density": density, "f1 dev": score, "runs": 1}
        for method, density, score in [
            ("full", "100%", 90.0),
            ("last-layer", "0%", 99.0),
            ("structured", "0.1%", 88.0),
            ("structured", "0.5%", 91.0),
            ("structured, unprojected", "0.5%", 95.0),
        ]
    ]
    found = diff_findings(rows, "f1 dev")
    assert [(one.budget, one.row["f1 dev"]) for one in found] == [
        ("0.5% of the weights", 91.0),
        ("0.1% of the weights", 88.0),
    ]


def test_the_steps_of_a_sweep_and_rare_columns_are_left_out():
    sweep = {"seconds (sweep)": 9.0}
    rows = [row("unpruned", 24, 38.0), row("dsp", 12, 37.0)]
    rows += [row("michel", kept, float(kept)) for kept in (24, 18, 12)] + [row("michel", 6, 6.0, **sweep)]
    kept, columns = short_table(rows, ["method", "K", "BLEU test", "seconds (sweep)", "runs"])
    assert columns == ["method", "K", "BLEU test", "runs"]
    assert [(one["method"], one["K"]) for one in kept] == [
        ("unpruned", "24/24"),
        ("dsp", "12/24"),
        ("michel", "12/24"),
        ("michel", "6/24"),
    ]


def test_the_picture_shows_the_best_in_blue_and_the_rest_in_grey(tmp_path):
    blocks = {"blocks": [{"name": "layers.0", "kind": "encoder-self", "num_heads": 4}]}
    points = {"unpruned": {4: [38.0]}, "a": {2: [36.0]}, "b": {2: [20.0, 21.0]}}
    path = tmp_path / "overview.png"
    overview_png(points, 4, [("a", kept_heads(blocks, [1, 0, 0, 1]))], path, "BLEU", "title")
    image = np.round(matplotlib.image.imread(path)[..., :3] * 255).astype(int)
    blue = np.argwhere((image == (0, 114, 178)).all(axis=-1))
    assert (blue[:, 1] < image.shape[1] / 2).any() and (blue[:, 1] > image.shape[1] / 2).any()
    with pytest.raises(ValueError, match="nothing to draw"):
        overview_png(points, 4, [], path, "BLEU")
