"""The file of a DiffPack: a safetensors file that any safetensors reader opens.

    metadata "dsp_diff_pack"   JSON: format_version, checksum, base_hash, positions, value_dtype, config
    tensor   "index"           uint8, zlib-compressed JSON: parameters [[name, dtype, shape], ...] of the
                               base, tied {name: [names]}, changed [[number in parameters, positions,
                               divisor], ...], where untouched rows are left out (touched_rows.py) with two
                               more: rows, their divisor
    tensors  "positions.unary", "positions.fixed", "positions.extra"    uint8, see golomb.py
    tensor   "values"          [positions], the tensors one after the other in the order of `changed`
    tensors  "head.NAME"       the dense task head

The checksum is the SHA-256 of the whole file with zeros in its own place: no byte can change unnoticed.
Whoever wrote the file, its content is checked, too (content.py), with work in proportion to the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ...records.files.whole import replacing
from ..base import Base
from ..sparse import SparseDiff
from .checksum import NO_CHECKSUM
from .content import (
    base_of,
    check_changed,
    check_config,
    check_numbers,
    check_task_head,
    check_values,
    malformed,
    parse_json,
)
from .golomb import CodedPositions
from .touched_rows import decode_matrices, encode_matrices

FORMAT_VERSION = 1
VALUE_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}

_KEY = "dsp_diff_pack"
_STREAMS = ("unary", "fixed", "extra")
_TENSORS = {"index", "values", *(f"positions.{stream}" for stream in _STREAMS)}
# Bytes of the index, unpacked: 200,000 tensors and more. Of real names zlib makes a tenth or so.
_MAX_INDEX = 1 << 24
_MAX_INDEX_RATIO = 64
_SMALL_INDEX = 1 << 16
_MAX_HEADER = 100_000_000  # what the safetensors library takes


def write_pack_file(
    path: str | os.PathLike,
    diff: SparseDiff,
    base: Base,
    task_head: Mapping[str, Tensor],
    config: Mapping[str, Any],
) -> int:
    """Write the file whole or not at all; returns its size in bytes.

    Raises:
        OSError: it cannot be written; what was there before is still there.
        ValueError: the configuration is not JSON.
    """
    raw = pack_bytes(diff, base, task_head, config)
    with replacing(path) as temporary:
        temporary.write_bytes(raw)
    return len(raw)


def pack_bytes(
    diff: SparseDiff, base: Base, task_head: Mapping[str, Tensor], config: Mapping[str, Any]
) -> bytes:
    """Return the file's bytes, the same ones for the same pack."""
    names = [name for name in base.parameters if name in diff.entries and len(diff.entries[name][0])]
    coded, facts = _encode(diff, names)
    values = [diff.entries[name][1].cpu() for name in names]
    number = {name: place for place, name in enumerate(base.parameters)}
    index = {
        "parameters": [[name, dtype, list(shape)] for name, (dtype, shape) in base.parameters.items()],
        "tied": {name: list(others) for name, others in base.tied.items()},
        "changed": [[number[name], *entry] for name, entry in zip(names, facts)],
    }
    tensors = {f"head.{name}": part.detach().cpu().contiguous().clone() for name, part in task_head.items()}
    tensors["index"] = _as_tensor(np.frombuffer(zlib.compress(json.dumps(index).encode(), 9), np.uint8))
    tensors.update({f"positions.{name}": _as_tensor(getattr(coded, name)) for name in _STREAMS})
    tensors["values"] = torch.cat(values) if values else torch.zeros(0)
    about = {
        "format_version": FORMAT_VERSION,
        "checksum": NO_CHECKSUM,
        "base_hash": base.hash,
        "positions": sum(count for count, *_ in facts),
        "value_dtype": str(tensors["values"].dtype).replace("torch.", ""),
        "config": dict(config),
    }
    try:
        written = json.dumps(about)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the configuration of a pack must be plain JSON: {error}") from None
    # one entry only: safetensors writes several in an order that changes from run to run
    raw = save_tensors(tensors, {_KEY: written})
    return raw.replace(NO_CHECKSUM.encode(), hashlib.sha256(raw).hexdigest().encode(), 1)


def read_pack_file(path: str | os.PathLike) -> tuple[SparseDiff, Base, dict[str, Tensor], dict[str, Any]]:
    """Read the diff, its base, the task head and the configuration.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no pack, of a newer format, truncated, or has changed since it was written.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no diff pack at {path}")
    with open(path, "rb") as file:
        # the header alone first: a file that is none may be of any size
        start = file.read(8)
        start += file.read(min(int.from_bytes(start, "little"), _MAX_HEADER))
        _read_about(start, str(path), os.fstat(file.fileno()).st_size)
        return unpack(start + file.read(), str(path))


def unpack(raw: bytes, path: str) -> tuple[SparseDiff, Base, dict[str, Tensor], dict[str, Any]]:
    """Do as `read_pack_file` does, on bytes; `path` is what error messages call them."""
    about = _read_about(raw, path, len(raw))
    version = about.get("format_version")
    if type(version) is not int or version < 1:
        raise ValueError(f"{path} is damaged: format version {str(version)[:40]!r}")
    if version > FORMAT_VERSION:
        known = f"this dsp_plugin reads up to {FORMAT_VERSION}: update dsp_plugin"
        raise ValueError(f"{path} has format version {version}, and {known}")
    checksum = str(about.get("checksum")).encode()
    blank = raw.replace(checksum, NO_CHECKSUM.encode(), 1) if len(checksum) == 64 else b""
    if hashlib.sha256(blank).hexdigest() != checksum.decode():
        raise ValueError(f"{path} is damaged: its content does not fit its checksum")
    # from here on only a program that writes wrong files is at fault, but it must not get at a model either
    with malformed(f"{path} is not a valid diff pack", ValueError, zlib.error, OverflowError):
        return _content(load_tensors(raw), about)


def position_bytes(diff: SparseDiff) -> int:
    """Return the bytes that the positions take in a file."""
    return _encode(diff, list(diff.entries))[0].num_bytes


def _encode(diff: SparseDiff, names: list[str]) -> tuple[CodedPositions, list[tuple[int, ...]]]:
    positions = [diff.entries[name][0].cpu().numpy() for name in names]
    return encode_matrices(positions, [diff.shapes[name] for name in names])


def _read_about(raw: bytes, path: str, size: int) -> dict[str, Any]:
    """Read the JSON of the metadata from bytes that need not be a pack, nor whole; `size` bytes are there."""
    length = int.from_bytes(raw[:8], "little")
    try:
        header = json.loads(raw[8 : 8 + length])
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        metadata = header.get("__metadata__", {})
        is_pack = _KEY in metadata
        about = json.loads(metadata[_KEY]) if is_pack else {}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise ValueError(f"{path} is not a diff pack, or is damaged: its header cannot be read") from None
    if not is_pack:
        raise ValueError(f"{path} is not a diff pack, but another safetensors file")
    end = 8 + length + max(ends, default=0)
    if end > size:
        raise ValueError(f"{path} is truncated: {size} of {end} bytes are there")
    if end < size:
        raise ValueError(f"{path} is damaged: {size} bytes are there, where it has {end}")
    if not isinstance(about, dict):
        raise ValueError(f"{path} is not a diff pack, or is damaged: its header cannot be read")
    return about


def _content(
    tensors: dict[str, Tensor], about: Mapping[str, Any]
) -> tuple[SparseDiff, Base, dict[str, Tensor], dict[str, Any]]:
    check_config(about["config"])
    for name in tensors:
        if name not in _TENSORS and not name.startswith("head."):
            raise ValueError(f"it has a tensor {name!r}")
    for name in ("index", *(f"positions.{stream}" for stream in _STREAMS)):
        if tensors[name].dtype != torch.uint8 or tensors[name].dim() != 1:
            raise ValueError(f"{name} is not bytes")
    index = parse_json(_unzip(tensors["index"].numpy().tobytes()), "its index")
    base = base_of(about["base_hash"], index["parameters"], index["tied"])
    names, facts, values = list(base.parameters), index["changed"], tensors["values"]
    if not isinstance(facts, list) or not all(isinstance(x, list) and len(x) in (3, 5) for x in facts):
        raise ValueError("its list of changed tensors has entries of a wrong length")
    numbers = [number for entry in facts for number in entry]
    check_numbers([about["positions"], *numbers], "its counts and divisors")
    numbers = [entry[0] for entry in facts]
    for place in numbers:
        if place >= len(names):
            raise ValueError(f"it changes parameter number {place}, which is unknown")
        check_changed(base, names[place])
    if len({*numbers}) != len(numbers):
        raise ValueError("it has a parameter that is changed twice")
    if str(values.dtype) != f"torch.{about['value_dtype']}" or about["value_dtype"] not in VALUE_DTYPES:
        raise ValueError(f"its values are {values.dtype}")
    counts = [entry[1] for entry in facts]
    if values.dim() != 1 or not len(values) == sum(counts) == about["positions"]:
        announced = f"{about['positions']} are announced"
        raise ValueError(f"it has {values.numel()} values for {sum(counts)} positions, where {announced}")
    check_values("values", values)
    changed = [names[place] for place in numbers]
    streams = [tensors[f"positions.{name}"].numpy() for name in _STREAMS]
    shapes = [base.parameters[name][1] for name in changed]
    positions = map(torch.from_numpy, decode_matrices(streams, shapes, [entry[1:] for entry in facts]))
    entries = dict(zip(changed, zip(positions, values.split(counts))))
    diff = SparseDiff(entries, {name: shape for name, (_, shape) in base.parameters.items()})
    task_head = {name[len("head.") :]: tensors[name] for name in sorted(tensors) if name.startswith("head.")}
    check_task_head(task_head, base)
    return diff, base, task_head, dict(about["config"])


def _unzip(compressed: bytes) -> bytes:
    """Decompress the index; raise a ValueError where it becomes too large, or is followed by something."""
    most = min(_MAX_INDEX, max(_SMALL_INDEX, _MAX_INDEX_RATIO * len(compressed)))
    unzip = zlib.decompressobj()
    unpacked = unzip.decompress(compressed, most)
    if not unzip.eof or unzip.unused_data:
        raise ValueError(f"its index is not whole, or larger than {most} bytes")
    # lists of nothing take the most memory
    if unpacked.count(b"[") + unpacked.count(b"{") > len(unpacked) // 6 + 8:
        raise ValueError("its index is no list of parameters")
    return unpacked


def _as_tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, np.uint8))
