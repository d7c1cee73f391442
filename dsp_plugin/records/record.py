"""Result records: what one run measured, as `results.json`. Tables and pictures are made from these only."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from dsp_plugin.records.environment import command_line, device_name, fingerprint, portable_path, versions
from dsp_plugin.records.files.sealed import DamagedError, load_json, warn_unsealed, write_json
from dsp_plugin.records.files.whole import check_folder, check_output
from dsp_plugin.records.kept_heads import check_heads, kept_heads, mask_of

__all__ = [
    "Metric",
    "Record",
    "RecordError",
    "find_records",
    "fingerprint",
    "kept_heads",
    "load_record",
    "load_records",
    "mask_of",
    "new_record",
    "portable_path",
    "save_record",
]

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
DEFAULT_NAME = "results.json"


class RecordError(ValueError):
    """A record that is damaged, from a newer version, or not a record; the message says where and what."""


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


def new_record(kind: str, name: str, method: str, device: object = None, **fields: Any) -> Record:
    """Make a record of this process: command, versions and device filled in, the other fields as given.

    Args:
        device: `torch.device` or its text that the run used; None means the first GPU if there is one, else
            the CPU.
    """
    surroundings = {"command": command_line(), "versions": versions(), "device": device_name(device)}
    return Record(kind=kind, name=name, method=method, **{**surroundings, **fields})


def method_label(method: str, density: float) -> str:
    """Name a method that keeps a share of the weights, such as `diff-structured-0.5%`.

    Args:
        density: the share, rounded to two digits: 0.00498 of a small model is 0.5%.
    """
    return f"{method}-{float(f'{100 * density:.2g}'):g}%"


def save_record(record: Record, path: str | os.PathLike) -> Path:
    """Write the record, whole or not at all; return the file's path.

    Args:
        path: the file, its name ending in ".json", or a folder, in which it is called results.json.

    Raises:
        RecordError: the record is not valid.
        OSError: the file cannot be written; what was there before is untouched.
    """
    path = Path(path)
    if path.suffix != ".json":
        path = path / DEFAULT_NAME
    try:
        record.validate()
        fields = dataclasses.asdict(record)
        fields = {"schema_version": fields.pop("schema_version"), **fields}
        text = json.dumps(fields, indent=2, ensure_ascii=False, allow_nan=False, default=_plain_number)
    except RecordError as error:
        raise RecordError(f"cannot write {path}: {error}") from None
    except (TypeError, ValueError) as error:
        raise RecordError(f"cannot write {path}: a field is not JSON: {error}") from error
    # Lists of numbers on one line. JSON never has a raw line end inside a text, so no text can match.
    text = re.sub(r"\[\n([-\d,\s]+)\n\s*\]", lambda match: f"[{' '.join(match[1].split())}]", text)
    write_json(path, text + "\n")
    return path


def check_record_path(option: str, path: str | os.PathLike) -> None:
    """Check, before work is begun, that `save_record` can write to the path that `option` names.

    Raises:
        ValueError: there is a device, or a folder where a file should be; or nothing can be written.
    """
    if Path(path).suffix == ".json":
        check_output(option, path)
    else:
        check_folder(option, path)
        check_output(option, Path(path) / DEFAULT_NAME)


def load_record(path: str | os.PathLike) -> Record:
    """Read and check one record; warn of one without a checksum.

    Raises:
        RecordError: damaged, from a newer version of this package, or not a record; names the file.
        OSError: it cannot be read.
    """
    record, sealed = _load(Path(path))
    if not sealed:
        warn_unsealed(path)
    return record


def load_records(folder: str | os.PathLike) -> list[Record]:
    """Read all records among the *.json files below `folder`, in their paths' order; see `find_records`."""
    return [record for _, record in find_records(folder)]


def find_records(folder: str | os.PathLike) -> list[tuple[Path, Record]]:
    """Find all records among the *.json files below `folder`, with their paths, in the order of these.

    A file that is damaged is reported by a warning (logging) and left out. JSON of another kind is left out
    too, which is logged as information only, unless the file is called results.json. One warning counts the
    records without a checksum.

    Raises:
        FileNotFoundError: no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of result records: {folder}")
    records, unsealed = [], []
    for path in sorted(p for p in folder.rglob("*.json") if p.is_file()):
        try:
            record, sealed = _load(path)
            records.append((path, record))
            unsealed += [] if sealed else [path]
        except _NotARecord as error:
            level = logging.WARNING if path.name == DEFAULT_NAME else logging.INFO
            logger.log(level, "left out %s", error)
        except (RecordError, OSError) as error:
            logger.warning("left out a result record: %s", error)
    if unsealed:
        more = f"and {len(unsealed) - 1} more records have" if unsealed[1:] else "has"
        said = "%s %s no checksum: damage would go unseen; `dsp seal %s` puts one in"
        logger.warning(said, unsealed[0], more, folder)
    return records


def _load(path: Path) -> tuple[Record, bool]:
    """Do as `load_record`; return also whether it was checked against a checksum."""
    try:
        fields, sealed = load_json(path)
        return _from_fields(fields), sealed
    except DamagedError as error:
        raise RecordError(str(error)) from None
    except RecordError as error:
        raise type(error)(f"{path}: {error}") from None


class _NotARecord(RecordError):
    """Sound JSON that never was a record."""


def _from_fields(fields: Any) -> Record:
    if not isinstance(fields, dict) or "schema_version" not in fields:
        raise _NotARecord("not a result record (it has no schema_version)")
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


def _plain_number(value: Any) -> Any:
    """Turn NumPy's and torch's scalars into JSON's."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r}")
