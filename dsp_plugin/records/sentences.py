"""`sentences.json.xz` beside a record: what each sentence adds to the score, to compare runs in pairs.

{"metric": "BLEU", "signature": sacreBLEU's, "statistics": [S, 10] integers, see `bleu.bleu_statistics`}

It is compressed, to a seventh; earlier versions wrote `sentences.json`, which is read, too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsp_plugin.records.files.packed import read_packed, write_packed
from dsp_plugin.records.record import Metric

SENTENCES_NAME = "sentences.json.xz"
PLAIN_NAME = "sentences.json"  # of earlier versions


def save_sentences(folder: str | os.PathLike, sentences: Mapping[str, Any] | None) -> None:
    """Write the file, one sentence a line, whole or not at all; with None an old file is removed."""
    path = Path(folder) / SENTENCES_NAME
    if sentences is None:
        path.unlink(missing_ok=True)  # of an earlier run, so of other translations
    else:
        write_packed(path, json.dumps(sentences).replace("], [", "],\n[") + "\n")
    (Path(folder) / PLAIN_NAME).unlink(missing_ok=True)


def load_statistics(folder: str | os.PathLike, metric: Metric) -> list[list[int]] | None:
    """Read the statistics [S, 10] of a record's metric from the file beside the record; None without one.

    Args:
        folder: where the record lies.
        metric: it is BLEU; other metrics have no statistics yet.

    Raises:
        ValueError: damaged, of another metric or signature, or their sum does not give the metric's value.
        OSError: the file is there and cannot be read.
    """
    names = [name for name in (SENTENCES_NAME, PLAIN_NAME) if (Path(folder) / name).is_file()]
    if metric.name != "BLEU" or not names:
        return None
    path = Path(folder) / names[0]
    fields = read_packed(path)
    if not isinstance(fields, dict) or not {"metric", "signature", "statistics"} <= set(fields):
        raise ValueError(f"{path}: it must have metric, signature and statistics")
    if (fields["metric"], fields["signature"]) != (metric.name, metric.signature):
        found = f"{fields['metric']} {fields['signature']}"
        raise ValueError(f"{path}: of {found}, the record has {metric.signature}")
    statistics = fields["statistics"]
    if not isinstance(statistics, list) or not statistics or not all(map(_is_row, statistics)):
        raise ValueError(f"{path}: statistics must be lists of 10 integers >= 0, at least one")
    score = _score(statistics)
    if abs(score - metric.value) > 1e-6:  # of other translations than the record
        raise ValueError(f"{path}: its sentences give {score:.4f}, the record says {metric.value:.4f}")
    return statistics


def _is_row(row: Any) -> bool:
    ten = isinstance(row, list) and len(row) == 10
    return ten and all(type(count) is int and count >= 0 for count in row)


def _score(statistics: list[list[int]]) -> float:
    from sacrebleu.metrics import BLEU

    return BLEU()._aggregate_and_compute(statistics).score
