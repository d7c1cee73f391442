"""Result records: what one run measured, as `results.json`. Tables and pictures are made from these only."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

from dsp_plugin.records.environment import command_line, device_name, fingerprint, portable_path, versions
from dsp_plugin.records.fields import Metric, NotARecord, Record, RecordError, record_of
from dsp_plugin.records.files.sealed import DamagedError, load_json, warn_unsealed, write_json
from dsp_plugin.records.files.whole import check_folder, check_output
from dsp_plugin.records.kept_heads import kept_heads, kept_in_words, mask_of

__all__ = [
    "Metric",
    "Record",
    "RecordError",
    "find_records",
    "fingerprint",
    "kept_heads",
    "kept_in_words",
    "load_record",
    "load_records",
    "mask_of",
    "new_record",
    "portable_path",
    "save_record",
]

logger = logging.getLogger(__name__)

DEFAULT_NAME = "results.json"


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
        except NotARecord as error:
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
        return record_of(fields), sealed
    except DamagedError as error:
        raise RecordError(str(error)) from None
    except RecordError as error:
        raise type(error)(f"{path}: {error}") from None


def _plain_number(value: Any) -> Any:
    """Turn NumPy's and torch's scalars into JSON's."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r}")
