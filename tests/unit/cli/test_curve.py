"""`dsp curve` of a tiny Transformers folder: table, CSV, picture and record, and what is refused."""

from __future__ import annotations

import dsp_plugin.hf  # noqa: F401  (first: it hides a torchaudio that cannot be loaded)  isort: skip

import csv

import pytest
from glue_folders import write_task
from hf_programs import write_bert
from transformers import AutoModelForSequenceClassification, BertTokenizer

from dsp_plugin.choosing.paired_times import Effort
from dsp_plugin.cli import curve, speed
from dsp_plugin.cli import main as cli
from dsp_plugin.hf.data.glue import find_task, label_names
from dsp_plugin.options.errors import OptionError
from dsp_plugin.records.record import load_record
from dsp_plugin.reports.pictures.speeds import speeds_png


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curve")
    write_bert(folder / "body")
    write_task(folder / "SST-2", "SST-2", train=16)
    names = label_names(find_task("SST-2"))
    model = AutoModelForSequenceClassification.from_pretrained(folder / "body", **names)
    model.save_pretrained(folder / "model")
    BertTokenizer.from_pretrained(folder / "body").save_pretrained(folder / "model")
    return folder


def run(folder, *more) -> int:
    data = folder / "SST-2"
    words = ["curve", folder / "model", "--calibration", data, "--group", 8, "--shape", "2x8", "--threads", 1]
    return cli.main([str(word) for word in [*words, "--costs", folder / "costs", *more]])


def test_one_calibration_gives_a_point_a_bound(folder, capsys, monkeypatch):
    monkeypatch.setattr(curve, "CAREFUL", {"pairs": 1, "most": 1})
    out = folder / "out"
    more = ("--score", folder / "SST-2", "--cost", "parameters", "--speedups", "2,1.2", "--out", out)
    assert run(folder, *more) == 0
    with open(out / "curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["asked"]) for row in rows] == [1, 1.2, 2]
    parameters = [int(row["parameters"]) for row in rows]
    for row, count in zip(rows[1:], parameters[1:]):
        ratio = parameters[0] / count
        assert float(row["reached"]) == pytest.approx(ratio) and ratio >= float(row["asked"])
    assert all(row["accuracy on dev"] for row in rows)
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    record = load_record(out / "results.json")
    assert [point["parameters"] for point in record.extra["curve"]] == parameters
    assert "asked" in capsys.readouterr().out


def test_bounds_are_spread_up_to_what_is_possible():
    found = curve.default_speedups(4.0)
    assert len(found) == 6 and found[-1] == pytest.approx(3.2)
    ratios = [later / earlier for earlier, later in zip([1.0, *found], found)]
    assert ratios == pytest.approx([3.2 ** (1 / 6)] * 6)
    with pytest.raises(ValueError, match="no curve to draw"):
        curve.default_speedups(1.2)


@pytest.mark.parametrize(
    "more,said",
    [
        ((), "--score DATA is missing"),
        (("--speedups", "0.5"), "--speedups must be a number of 1 or more"),
        (("--speedups", "a"), "--speedups a: numbers with commas"),
        (("--speedups", "90", "--cost", "bytes", "--score", "DATA"), "out of reach"),
    ],
)
def test_what_cannot_be_is_refused_before_work(folder, capsys, more, said):
    more = [folder / "SST-2" if word == "DATA" else word for word in more]
    assert run(folder, "--out", folder / "refused", *more) == 1
    assert said in capsys.readouterr().err
    assert not (folder / "refused").exists()


def test_a_picture_needs_a_curve(tmp_path):
    for speedups, scores in (([1.0], [2.0]), ([1.0, 2.0], [2.0]), ([1.0, float("nan")], [2.0, 2.0])):
        with pytest.raises(ValueError):
            speeds_png(speedups, scores, tmp_path / "curve.png", "accuracy")
    with pytest.raises(OptionError):
        curve.parse_speedups("")


def test_the_comparison_that_is_reported_is_the_careful_one():
    usual, careful = Effort(), Effort(**speed.CAREFUL)
    assert careful.pairs > usual.pairs and careful.seconds > usual.seconds
    assert careful.precise < usual.precise
