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

import os
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...artefacts.base import Base
from ...artefacts.bound_file import FileKind, as_bytes, index_tensor, read_index, tensors_in
from ...artefacts.content import (
    check_changed,
    check_config,
    check_numbers,
    check_task_head,
    check_values,
    malformed,
)
from ...records.files.whole import replacing
from ..sparse import SparseDiff
from .golomb import CodedPositions
from .touched_rows import decode_matrices, encode_matrices

FORMAT_VERSION = 1
VALUE_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}

_KIND = FileKind("dsp_diff_pack", "diff pack", FORMAT_VERSION)
_STREAMS = ("unary", "fixed", "extra")
_TENSORS = {"index", "values", *(f"positions.{stream}" for stream in _STREAMS)}


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
    tensors = {f"head.{name}": part.detach().cpu().contiguous().clone() for name, part in task_head.items()}
    changed = [[number[name], *entry] for name, entry in zip(names, facts)]
    tensors["index"] = index_tensor(base, {"changed": changed})
    tensors.update({f"positions.{name}": as_bytes(getattr(coded, name)) for name in _STREAMS})
    tensors["values"] = torch.cat(values) if values else torch.zeros(0)
    about = {
        "base_hash": base.hash,
        "positions": sum(count for count, *_ in facts),
        "value_dtype": str(tensors["values"].dtype).replace("torch.", ""),
        "config": dict(config),
    }
    return _KIND.to_bytes(tensors, about)


def read_pack_file(path: str | os.PathLike) -> tuple[SparseDiff, Base, dict[str, Tensor], dict[str, Any]]:
    """Read the diff, its base, the task head and the configuration.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no pack, of a newer format, truncated, or has changed since it was written.
    """
    return unpack(_KIND.read(path), str(path))


def unpack(raw: bytes, path: str) -> tuple[SparseDiff, Base, dict[str, Tensor], dict[str, Any]]:
    """Do as `read_pack_file` does, on bytes; `path` is what error messages call them."""
    about = _KIND.check(raw, path)
    # from here on only a program that writes wrong files is at fault, but it must not get at a model either
    with malformed(f"{path} is not a valid diff pack", ValueError, zlib.error, OverflowError):
        return _content(tensors_in(raw), about)


def position_bytes(diff: SparseDiff) -> int:
    """Return the bytes that the positions take in a file."""
    return _encode(diff, list(diff.entries))[0].num_bytes


def _encode(diff: SparseDiff, names: list[str]) -> tuple[CodedPositions, list[tuple[int, ...]]]:
    positions = [diff.entries[name][0].cpu().numpy() for name in names]
    return encode_matrices(positions, [diff.shapes[name] for name in names])


def _content(
    tensors: dict[str, Tensor], about: Mapping[str, Any]
) -> tuple[SparseDiff, Base, dict[str, Tensor], dict[str, Any]]:
    check_config(about["config"])
    for name in tensors:
        if name not in _TENSORS and not name.startswith("head."):
            raise ValueError(f"it has a tensor {name!r}")
    for name in (f"positions.{stream}" for stream in _STREAMS):
        if tensors[name].dtype != torch.uint8 or tensors[name].dim() != 1:
            raise ValueError(f"{name} is not bytes")
    base, index = read_index(tensors["index"], about["base_hash"])
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
