"""The fields of a result record, and what each may hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from dsp_plugin.records.kept_heads import check_heads

SCHEMA_VERSION = 1


class RecordError(ValueError):
    """A record that is damaged, from a newer version, or not a record; the message says where and what."""


class NotARecord(RecordError):
    """Sound JSON that never was a record."""


@dataclass
class Metric:
    """One number that was measured.

    Args:
        name: what was measured, for example "BLEU" or "speed".
        value: the number.
        unit: for example "sentences/s"; empty where the name says it all.
        signature: how it was measured so that it can be compared, for BLEU sacreBLEU's signature.
        subset: on what, for example "test_2016_flickr"; empty where that means nothing.
    """

    name: str
    value: float
    unit: str = ""
    signature: str = ""
    subset: str = ""


@dataclass
class Record:
    """One run. Runs that differ only by their seed share `name` and `method`: a table averages over them.

    Several records of one run (training, then scoring each test set) share `seed` as well: a table joins
    them.

    Args:
        kind: what the run did, for example "mt-train", "mt-bleu", "speed".
        name: the setting, for example "multi30k-small"; without the seed.
        method: for example "dsp-joint", "unpruned".
        command: the command line, without paths of the machine (see `environment.command_line`).
        versions: package -> version.
        device: name of the accelerator or the processor.
        seed: the seed of training; None where there is none.
        data: `fingerprint` of the data files; empty if unknown.
        metrics: what was measured.
        heads: see `kept_heads`; None where heads play no part.
        parameters: {"before": count, "after": count}, both scalars of the model; None if not counted.
        seconds: wall time by phase, for example {"train": 130.2, "generate": 7.9}.
        updates: optimizer updates of the training; None if unknown.
        extra: anything else that JSON can hold.
    """

    kind: str
    name: str
    method: str
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    seed: int | None = None
    data: str = ""
    metrics: list[Metric] = field(default_factory=list)
    heads: dict[str, Any] | None = None
    parameters: dict[str, int] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    updates: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def validate(self) -> None:
        """Raise a RecordError that names the field if one has a wrong type or heads do not add up."""
        for name in ("kind", "name", "method"):
            _require(
                isinstance(getattr(self, name), str) and getattr(self, name),
                f"{name} must be a text, not empty",
            )
        for name in ("command", "device", "data"):
            _require(isinstance(getattr(self, name), str), f"{name} must be a text")
        _require(self.schema_version == SCHEMA_VERSION, f"schema_version must be {SCHEMA_VERSION}")
        _require(self.seed is None or _is_int(self.seed), "seed must be an integer or null")
        _require(self.updates is None or _is_count(self.updates), "updates must be an integer >= 0 or null")
        _require(isinstance(self.extra, dict), "extra must be an object")
        _require(
            isinstance(self.versions, dict) and all(isinstance(v, str) for v in self.versions.values()),
            "versions must map packages to texts",
        )
        _require(
            isinstance(self.seconds, dict) and all(_is_finite(v) and v >= 0 for v in self.seconds.values()),
            "seconds must map phases to numbers >= 0",
        )
        _require(
            self.parameters is None
            or isinstance(self.parameters, dict)
            and set(self.parameters) == {"before", "after"}
            and all(map(_is_count, self.parameters.values())),
            "parameters must be null or {before, after}, integers >= 0",
        )
        _require(isinstance(self.metrics, list), "metrics must be a list")
        for position, metric in enumerate(self.metrics):
            where = f"metrics[{position}]"
            _require(isinstance(metric, Metric), f"{where} must be a Metric")
            for name in ("name", "unit", "signature", "subset"):
                _require(isinstance(getattr(metric, name), str), f"{where}.{name} must be a text")
            _require(bool(metric.name), f"{where}.name is empty")
            _require(_is_finite(metric.value), f"{where}.value ({metric.name}) must be a finite number")
        keys = [(metric.name, metric.subset) for metric in self.metrics]
        twice = sorted({" ".join(key).rstrip() for key in keys if keys.count(key) > 1})
        _require(not twice, f"metrics has twice: {', '.join(twice)}")
        if self.heads is not None:
            try:
                check_heads(self.heads)
            except ValueError as error:
                raise RecordError(str(error)) from None

    def metric(self, name: str, subset: str = "") -> Metric | None:
        """Return the metric of that name and subset, or None."""
        return next((m for m in self.metrics if (m.name, m.subset) == (name, subset)), None)


def record_of(fields: Any) -> Record:
    """Make the record of a file's fields.

    Raises:
        NotARecord: it never was one.
        RecordError: it is from a newer version, or a field is wrong; names the field.
    """
    if not isinstance(fields, dict) or "schema_version" not in fields:
        raise NotARecord("not a result record (it has no schema_version)")
    version = fields["schema_version"]
    if not _is_int(version) or version < 1:
        raise RecordError(f"schema_version is {version!r}, not a whole number from 1")
    if version > SCHEMA_VERSION:
        known = f"this version of dsp_plugin reads up to {SCHEMA_VERSION}"
        raise RecordError(f"written in schema {version}, {known}")
    _refuse_wrong_fields(Record, fields, "the record")
    metrics = fields.get("metrics", [])
    _require(isinstance(metrics, list), "metrics must be a list")
    for position, metric in enumerate(metrics):
        _require(isinstance(metric, dict), f"metrics[{position}] must be an object")
        _refuse_wrong_fields(Metric, metric, f"metrics[{position}]")
    record = Record(**{**fields, "metrics": [Metric(**metric) for metric in metrics]})
    record.validate()
    return record


def _refuse_wrong_fields(cls: type, fields: Mapping[str, Any], where: str) -> None:
    known = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(fields) - set(known))
    _require(not unknown, f"{where} has unknown fields: {', '.join(unknown)}")
    needed = [n for n, f in known.items() if f.default is f.default_factory is dataclasses.MISSING]
    missing = [n for n in needed if n not in fields]
    _require(not missing, f"{where} lacks {', '.join(missing)}")


def _require(condition: object, message: str) -> None:
    if not condition:
        raise RecordError(message)


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_int(value) and value >= 0


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
