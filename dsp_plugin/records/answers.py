"""`answers.json.xz` beside a record of a GLUE task: what the model said of each example, to compare runs.

{"labels": the true ones, "answers": the model's}, numbers of classes in the task's own order, or those of a
regression, an entry an example, in the order of the development set.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dsp_plugin.records.agreement import METRICS
from dsp_plugin.records.files.packed import read_packed, write_packed
from dsp_plugin.records.record import Metric, Record

ANSWERS_NAME = "answers.json.xz"
_PERCENT = 100.0
_ROUNDING = 1e-4  # of numbers written with nine digits


class Answers(NamedTuple):
    """Labels and answers of the same examples."""

    labels: list[float]
    answers: list[float]


def save_answers(folder: str | os.PathLike, labels: Sequence[float], answers: Sequence[float]) -> None:
    """Write the file, whole or not at all."""
    if len(labels) != len(answers):
        raise ValueError(f"{len(answers)} answers for {len(labels)} labels")
    fields = {"labels": list(map(_short, labels)), "answers": list(map(_short, answers))}
    write_packed(Path(folder) / ANSWERS_NAME, json.dumps(fields) + "\n")


def load_answers(folder: str | os.PathLike, record: Record) -> Answers | None:
    """Read what lies beside a record; None without a file.

    Raises:
        ValueError: it is damaged, or does not give the record's scores.
        OSError: the file is there and cannot be read.
    """
    path = Path(folder) / ANSWERS_NAME
    if not path.is_file():
        return None
    fields = read_packed(path)
    if not isinstance(fields, dict) or not all(_is_numbers(fields.get(key)) for key in Answers._fields):
        raise ValueError(f"{path}: labels and answers must be lists of numbers")
    found = Answers(fields["labels"], fields["answers"])
    if len(found.labels) != len(found.answers):
        raise ValueError(f"{path}: {len(found.answers)} answers for {len(found.labels)} labels")
    for metric in record.metrics:
        if (value := score_of(metric, found)) is not None and abs(value - metric.value) > _ROUNDING:
            raise ValueError(f"{path}: its answers give {value:.4f}, the record says {metric.value:.4f}")
    return found


def score_of(metric: Metric, found: Answers) -> float | None:
    """Return the metric of these answers, in its unit; None for one that does not follow from them."""
    if metric.name not in METRICS or metric.unit != "%":
        return None
    return _PERCENT * METRICS[metric.name](found.labels, found.answers)


def _short(value: float) -> float | int:
    """Return a number with the digits that a float32 has."""
    value = float(f"{float(value):.9g}")
    return int(value) if value.is_integer() else value


def _is_numbers(values: object) -> bool:
    return (
        isinstance(values, list)
        and bool(values)
        and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    )
