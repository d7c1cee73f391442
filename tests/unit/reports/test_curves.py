"""The pictures of a report, by their pixels: curves, grids of head maps, heads over training."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest

from dsp_plugin.records.kept_heads import kept_heads
from dsp_plugin.records.record import Metric, Record
from dsp_plugin.reports.pictures.curves import curve_png, curve_points
from dsp_plugin.reports.pictures.head_grids import block_labels, head_grid_png
from dsp_plugin.reports.pictures.history import check_history, head_history_png

BLUE, VERMILLION, GREEN = (0, 114, 178), (213, 94, 0), (0, 158, 115)
HEAD_MAP = {
    "blocks": [
        {"name": "encoder.layers.0.self_attn", "num_heads": 4, "kind": "encoder-self"},
        {"name": "encoder.layers.2.self_attn", "num_heads": 4, "kind": "encoder-self"},
        {"name": "decoder.layers.0.encoder_attn", "num_heads": 4, "kind": "decoder-cross"},
    ]
}


def keep(*numbers: int) -> list[int]:
    return [int(number in numbers) for number in range(12)]


def run(method: str, kept: int, value: float, seed: int = 1, subset: str = "test") -> Record:
    heads = {"total": 24, "kept": kept, "blocks": []}
    return Record(
        "mt-bleu", "small", method, seed=seed, metrics=[Metric("BLEU", value, "", "", subset)], heads=heads
    )


def pixels(path) -> np.ndarray:
    return np.round(matplotlib.image.imread(path)[..., :3] * 255).astype(int)


def count(path, colour) -> int:
    return int((pixels(path) == colour).all(axis=-1).sum())


def test_points_of_a_setting():
    records = [
        run("dsp", 6, 20.0),
        run("dsp", 6, 22.0, seed=2),
        run("dsp", 12, 30.0),
        run("unpruned", 24, 35.0),
    ]
    records += [
        run("dsp", 6, 20.0),
        run("dsp", 6, 1.0, subset="valid"),
        Record("mt-train", "small", "dsp", seed=1),
    ]
    records.append(Record("mt-bleu", "small", "headless", metrics=[Metric("BLEU", 3.0, subset="test")]))
    points, total = curve_points(records, "BLEU", "test")
    assert points == {"dsp": {6: [20.0, 22.0], 12: [30.0]}, "unpruned": {24: [35.0]}}
    assert total == 24


def test_curves_show_each_method_and_the_baseline_across(tmp_path):
    points = {
        "dsp": {6: [20.0, 22.0], 12: [30.0, 30.5]},
        "voita": {6: [18.0]},
        "unpruned": {24: [35.0, 36.0]},
    }
    path = tmp_path / "curve.png"
    curve_png(points, 24, path, "BLEU", "small: BLEU on test")
    assert count(path, BLUE) > 500 and count(path, VERMILLION) > 50
    places = dashes(path)
    width = pixels(path).shape[1]
    assert places.max() - places.min() > 0.8 * width > places.size  # from side to side, with gaps
    curve_png({**points, "unpruned": {24: [35.0], 12: [33.0]}}, 24, path, "BLEU")
    assert dashes(path).size < 0.05 * width and count(path, GREEN) > 0  # now a line like the others


def dashes(path) -> np.ndarray:
    """Where the row with most grey is grey."""
    grey = (pixels(path) == (107, 107, 107)).all(axis=-1)
    return np.flatnonzero(grey[grey.sum(axis=1).argmax()])


def test_a_method_keeps_its_colour_from_picture_to_picture(tmp_path):
    curve_png({"voita": {6: [18.0], 12: [20.0]}}, 24, tmp_path / "a.png", "BLEU", methods=["dsp", "voita"])
    assert count(tmp_path / "a.png", VERMILLION) > 500 and not count(tmp_path / "a.png", BLUE)


@pytest.mark.parametrize(
    "points, message",
    [({}, "nothing"), ({"dsp": {30: [1.0]}}, r"0\.\.24"), ({"dsp": {3: [float("nan")]}}, "finite")],
)
def test_curves_refuse(tmp_path, points, message):
    with pytest.raises(ValueError, match=message):
        curve_png(points, 24, tmp_path / "x.png", "BLEU")
    assert list(tmp_path.iterdir()) == []


def test_a_grid_has_a_blue_square_for_each_head_kept(tmp_path):
    def blue(*masks) -> int:
        head_grid_png(
            [(f"run {n}", kept_heads(HEAD_MAP, mask)) for n, mask in enumerate(masks)], tmp_path / "g.png"
        )
        return count(tmp_path / "g.png", BLUE)

    none = blue(keep(), keep())  # the legend's own patch
    assert none > 0
    six = blue(keep(0, 5, 11), keep(1, 2, 3)) - none
    twelve = blue(keep(*range(8)), keep(0, 1, 2, 3)) - none
    assert six > 3000 and twelve == pytest.approx(2 * six, rel=0.02)


def test_a_grid_has_its_squares_in_their_places(tmp_path):
    def picture(mask) -> np.ndarray:
        head_grid_png([("run", kept_heads(HEAD_MAP, mask))], tmp_path / "g.png")
        return pixels(tmp_path / "g.png")

    def box(mask) -> list[float]:
        """Where the picture differs from that of no head: top, bottom, left, right, as shares of all the
        heads.
        """
        rows, columns = np.nonzero((picture(mask) != empty).any(axis=-1))
        ends = np.array([rows.min(), rows.max(), columns.min(), columns.max()], dtype=float)
        return ((ends - start) / (stop - start)).tolist()

    empty, start, stop = picture(keep()), np.zeros(4), np.ones(4)
    ends = np.array(box(keep(*range(12))))
    start, stop = ends[[0, 0, 2, 2]], ends[[1, 1, 3, 3]]
    # two layers of one kind, a gap of 0.6, one layer: 3.6 rows of 4 heads
    assert box(keep(2, 3)) == pytest.approx([0, 1 / 3.6, 0.5, 1], abs=0.04)
    assert box(keep(4)) == pytest.approx([1 / 3.6, 2 / 3.6, 0, 0.25], abs=0.04)
    assert box(keep(8)) == pytest.approx([2.6 / 3.6, 1, 0, 0.25], abs=0.04)


def test_grids_refuse_other_models_and_nothing(tmp_path):
    small = {"blocks": HEAD_MAP["blocks"][:1]}
    with pytest.raises(ValueError, match="different models"):
        head_grid_png(
            [("a", kept_heads(HEAD_MAP, keep(1))), ("b", kept_heads(small, [1, 0, 0, 0]))], tmp_path / "g.png"
        )
    with pytest.raises(ValueError, match="no head"):
        head_grid_png([], tmp_path / "g.png")


def test_blocks_are_named_by_kind_and_layer():
    assert block_labels(HEAD_MAP["blocks"]) == ["encoder-self 0", "2", "decoder-cross 0"]
    mixed = [HEAD_MAP["blocks"][0], HEAD_MAP["blocks"][2], HEAD_MAP["blocks"][1]]
    assert block_labels(mixed) == ["encoder-self 0", "decoder-cross 0", "encoder-self 2"]


def test_training_goes_from_left_to_right(tmp_path):
    history = [
        {"updates": 200, "keep": keep(), "scores": [0.5] * 12},
        {"updates": 0, "keep": keep(*range(12))},
    ]
    assert [updates for updates, _ in check_history(HEAD_MAP, history)] == [0, 200]
    head_history_png(HEAD_MAP, history, tmp_path / "h.png", "dsp")
    blue = (pixels(tmp_path / "h.png") == BLUE).all(axis=-1)
    columns = np.flatnonzero(blue.sum(axis=0) > blue.shape[0] / 3)  # not the legend
    assert columns.size > 0.3 * blue.shape[1]
    assert columns.max() < 0.65 * blue.shape[1]  # the later half is grey


@pytest.mark.parametrize(
    "history, message",
    [
        ([], "at least one"),
        ({}, "list"),
        ([{"updates": 3}], r"history\[0\] must have updates and keep"),
        ([{"updates": -1, "keep": keep()}], ">= 0"),
        ([{"updates": 1, "keep": keep()[1:]}], "12 times 0 or 1"),
        ([{"updates": 1, "keep": [2] * 12}], "12 times 0 or 1"),
    ],
)
def test_histories_are_checked(history, message):
    with pytest.raises(ValueError, match=message):
        check_history(HEAD_MAP, history)
