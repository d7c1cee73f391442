"""Answers beside a record: read back the same, and refused where they are not those of the record."""

from __future__ import annotations

import pytest

from dsp_plugin.records.answers import load_answers, save_answers
from dsp_plugin.records.record import Metric, Record

LABELS, ANSWERS = [1, 0, 1, 1, 0, 1], [1, 0, 0, 1, 1, 1]


def record_of(value: float, name: str = "accuracy") -> Record:
    return Record("glue-score", "CoLA", "dsee", metrics=[Metric(name, value, "%", subset="dev")])


def test_they_come_back(tmp_path):
    save_answers(tmp_path, LABELS, ANSWERS)
    assert load_answers(tmp_path, record_of(400 / 6)) == (LABELS, ANSWERS)
    save_answers(tmp_path, [0.1, 2.0], [1 / 3, 2e-9])
    assert load_answers(tmp_path, record_of(0, "loss")) == ([0.1, 2], [0.333333333, 2e-9])
    assert load_answers(tmp_path / "elsewhere", record_of(0)) is None


def test_of_another_run(tmp_path):
    save_answers(tmp_path, LABELS, ANSWERS)
    with pytest.raises(ValueError, match="give 66.6667, the record says 50.0000"):
        load_answers(tmp_path, record_of(50.0))
    with pytest.raises(ValueError, match="5 answers for 6 labels"):
        save_answers(tmp_path, LABELS, ANSWERS[:5])
