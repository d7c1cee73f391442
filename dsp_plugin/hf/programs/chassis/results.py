"""The records of a run, and what a program prints of its heads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....records.record import Metric, Record, mask_of, new_record, save_record
from ....reports.pictures.heads import head_map_text


@dataclass(frozen=True)
class Outcome:
    """What came of a system's run: all of it in the first process, the first three fields in the others.

    Attributes:
        scores: split -> metrics as the Trainer names them, of every scored split.
        label: the method in the records. updates: of the training, 0 without one.
        metrics: the scores as records have them. heads, parameters: as in a record.
    """

    scores: Mapping[str, dict[str, float]]
    label: str = ""
    updates: int = 0
    metrics: Sequence[Metric] = ()
    heads: Mapping[str, Any] | None = None
    parameters: Mapping[str, int] | None = None


class Records:
    """Writes the records of one run, which share setting, method, heads and seed.

    Args:
        kind: "glue" or "squad": the first word of the records' kind.
        folder: where results.json of the training goes; one scored split each has a folder in it.
        common: the fields they share.
    """

    def __init__(self, kind: str, folder: str, **common: Any):
        self.kind, self.folder, self.common = kind, folder, common

    def training(self, seconds: float, updates: int, extra: Mapping[str, Any]) -> Record:
        record = self._new("train", seconds={"train": seconds}, updates=updates, extra=dict(extra))
        save_record(record, os.path.join(self.folder, "results.json"))
        return record

    def scoring(
        self, split: str, metrics: list[Metric], seconds: float | None, extra: Mapping[str, Any]
    ) -> Record:
        took = {} if seconds is None else {"evaluate": seconds}
        record = self._new("score", metrics=metrics, seconds=took, extra=dict(extra))
        save_record(record, os.path.join(self.folder, split, "results.json"))
        return record

    def _new(self, what: str, **fields: Any) -> Record:
        return new_record(f"{self.kind}-{what}", **self.common, **fields)


def say_heads(heads: Mapping[str, Any]) -> None:
    """Print the map of the kept heads, with their number."""
    print(head_map_text(heads, mask_of(heads)), flush=True)
