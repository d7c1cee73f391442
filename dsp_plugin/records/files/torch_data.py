"""Files of `torch.save` read as data: weights-only, undamaged, and no larger in memory than on the disk."""

from __future__ import annotations

import argparse
import io
import os
import struct
import threading
import warnings
from typing import Any, BinaryIO

import numpy as np
import torch

from .torch_pickle import walk
from .torch_stand_ins import Refused, Storage
from .torch_zip import Entry, entries_of_torch_zip, starts_as_zip

_LARGEST_PICKLE = 1 << 26  # of a checkpoint with 10,000 tensors: 2 MB
_BESIDE_DATA = {"version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id"}
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # torch.serialization, of files before 1.6
_lock = threading.Lock()


def load_torch_data(file: BinaryIO, path: str) -> Any:
    """Read a file of `torch.save` on the CPU: tensors, numbers, texts, tables, Namespaces, arrays of numbers.

    Nothing of it is made before the whole file has been checked: its checksums, the types in its pickle, the
    size of every storage, tensor and array.

    Args:
        file: open for reading; its position is moved.
        path: for messages.

    Raises:
        ValueError: it is damaged, or holds anything else; says what.
    """
    try:
        if starts_as_zip(file):
            _check_zip(file, entries_of_torch_zip(file, path))
        else:
            _check_before_zip(file)
            warnings.warn(
                f"{path} is of torch before 1.6, without checksums: nobody can tell whether it is damaged",
                stacklevel=3,
            )
    except Refused as error:
        raise ValueError(f"{path} is refused: it holds more than data, or is damaged ({error})") from None
    file.seek(0)
    try:
        with _Allowed():
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes can raise anything
        raise ValueError(
            f"{path} is not readable ({(str(error).strip().splitlines() or [type(error).__name__])[0]})"
        ) from error


def _check_zip(file: BinaryIO, entries: dict[str, Entry]) -> None:
    others = (name for name in entries if not name.startswith("data/"))
    strange = [name for name in others if name not in _BESIDE_DATA | {"data.pkl"}]
    if strange or "data.pkl" not in entries:
        raise Refused(f"an archive of another kind ({(strange or ['no data.pkl'])[0][:80]!r})")
    if "byteorder" in entries and _read(file, entries["byteorder"], 10) not in (b"little", b"big"):
        raise Refused("an unknown byte order")
    pickle = entries["data.pkl"]

    def storage(reference: tuple) -> Storage:
        _, kind, key, location, numel = reference
        entry = entries.get(f"data/{key}") if isinstance(key, str) and isinstance(location, str) else None
        if entry is None or type(numel) is not int or numel * kind.itemsize != entry.size:
            raise Refused(
                f"a storage of {str(numel)[:30]} elements, of which the file has "
                f"{entry.size if entry else 0} bytes"
            )
        return Storage(numel, kind.itemsize)

    walk(io.BytesIO(_read(file, pickle, _LARGEST_PICKLE)), storage, file.seek(0, os.SEEK_END))


def _read(file: BinaryIO, entry: Entry, most: int) -> bytes:
    if entry.size > most:
        raise Refused(f"a table of {entry.size} bytes beside its tensors")
    file.seek(entry.offset)
    return file.read(entry.size)


def _check_before_zip(file: BinaryIO) -> None:
    """Check a file of torch before 1.6: five pickles, then the storages one behind the other."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    found: dict[str, Storage] = {}

    def storage(reference: tuple) -> Storage:
        _, kind, key, location, numel, view = reference
        if (
            not isinstance(key, str)
            or not isinstance(location, str)
            or type(numel) is not int
            or view is not None
        ):
            raise Refused("a storage of an unknown kind")
        if (
            not 0 <= numel * kind.itemsize <= length
            or found.setdefault(key, Storage(numel, kind.itemsize)).numel != numel
        ):
            raise Refused(f"a storage of {numel} elements in a file of {length} bytes")
        return Storage(numel, kind.itemsize)

    def no_storage(_: tuple) -> Storage:
        raise Refused("a storage where none belongs")

    if walk(file, no_storage, length) != _MAGIC or walk(file, no_storage, length) != _PROTOCOL:
        raise Refused("no file of torch.save")
    walk(file, no_storage, length)  # the machine that wrote it
    walk(file, storage, length)
    keys = walk(file, no_storage, length)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(found):
        raise Refused("other storages than those it speaks of")
    for key in keys:
        head = file.read(8)
        expected = found[key]
        if len(head) != 8 or struct.unpack("<q", head)[0] != expected.numel:
            raise Refused(f"a storage of {expected.numel} elements that is not there")
        file.seek(expected.numel * expected.itemsize, os.SEEK_CUR)
    if file.tell() != length:
        raise Refused("its storages do not end where it ends")


class _Allowed:
    """For one load, torch's list of safe types is exactly ours, whatever else the process has put there."""

    def __init__(self) -> None:
        self._before: list[Any] = []

    def __enter__(self) -> None:
        _lock.acquire()
        serialization = torch.serialization
        self._before = list(serialization.get_safe_globals())
        core = getattr(np, "_core", None) or np.core
        functions = [core.multiarray.scalar, core.multiarray._reconstruct]
        numbers = {type(np.dtype(code)) for code in "f8 f4 f2 i8 i4 i2 i1 u8 u4 u2 u1 ?".split()}
        rooms = ("numpy.core", "numpy._core")
        named = [(f, f"{room}.multiarray.{f.__name__}") for f in functions for room in rooms]
        serialization.clear_safe_globals()
        serialization.add_safe_globals([argparse.Namespace, np.dtype, np.ndarray, *numbers, *named])

    def __exit__(self, *_: Any) -> None:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(self._before)
        _lock.release()
