"""The safetensors file of something that belongs to a base: its header, checksum, index, and refusals.

    metadata KEY       JSON: format_version, checksum, and what the kind of file has beside them
    tensor "index"     uint8, zlib-compressed JSON: parameters [[name, dtype, shape], ...] of the base, tied
                       {name: [names]}, and what the kind has beside them

The checksum is the SHA-256 of the whole file with zeros in its own place: no byte can change unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ..records.files.whole import replacing
from .base import Base
from .checksum import NO_CHECKSUM
from .content import base_of, malformed, parse_json

# Bytes of the index, unpacked: 200,000 tensors and more. Of real names zlib makes a tenth or so.
_MAX_INDEX = 1 << 24
_MAX_INDEX_RATIO = 64
_SMALL_INDEX = 1 << 16
_MAX_HEADER = 100_000_000  # what the safetensors library takes


@dataclass(frozen=True)
class FileKind:
    """A kind of bound file.

    Attributes:
        key: of its entry in the metadata. called: its name in messages, such as `diff pack`.
        version: the newest format that is read, and the one that is written.
    """

    key: str
    called: str
    version: int

    def to_bytes(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
        """Return the bytes of a file, the same ones for the same content.

        Raises:
            ValueError: `about` is not plain JSON.
        """
        whole = {"format_version": self.version, "checksum": NO_CHECKSUM, **about}
        try:
            written = json.dumps(whole)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the configuration of a pack must be plain JSON: {error}") from None
        # one entry only: safetensors writes several in an order that changes from run to run
        raw = save_tensors(dict(tensors), {self.key: written})
        return raw.replace(NO_CHECKSUM.encode(), hashlib.sha256(raw).hexdigest().encode(), 1)

    def read(self, path: str | os.PathLike) -> bytes:
        """Read a file whose header says that it is of this kind, and whole.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is of another kind, truncated, or has a damaged header.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no {self.called} at {path}")
        with open(path, "rb") as file:
            # the header alone first: a file that is none may be of any size
            start = file.read(8)
            start += file.read(min(int.from_bytes(start, "little"), _MAX_HEADER))
            self._about(start, str(path), os.fstat(file.fileno()).st_size)
            return start + file.read()

    def check(self, raw: bytes, path: str) -> dict[str, Any]:
        """Compare the version and the checksum of a whole file; return what its metadata say.

        Args:
            path: what error messages call it.

        Raises:
            ValueError: it is of a newer format, or another file than was written.
        """
        about = self._about(raw, path, len(raw))
        version = about.get("format_version")
        if type(version) is not int or version < 1:
            raise ValueError(f"{path} is damaged: format version {str(version)[:40]!r}")
        if version > self.version:
            known = f"this dsp_plugin reads up to {self.version}: update dsp_plugin"
            raise ValueError(f"{path} has format version {version}, and {known}")
        checksum = str(about.get("checksum")).encode()
        blank = raw.replace(checksum, NO_CHECKSUM.encode(), 1) if len(checksum) == 64 else b""
        if hashlib.sha256(blank).hexdigest() != checksum.decode():
            raise ValueError(f"{path} is damaged: its content does not fit its checksum")
        return about

    def _about(self, raw: bytes, path: str, size: int) -> dict[str, Any]:
        """Read the metadata of bytes that need not be such a file, nor whole; `size` bytes are there."""
        length = int.from_bytes(raw[:8], "little")
        no_header = f"{path} is not a {self.called}, or is damaged: its header cannot be read"
        try:
            header = json.loads(raw[8 : 8 + length])
            parts = [entry for name, entry in header.items() if name != "__metadata__"]
            ends = [int(entry["data_offsets"][1]) for entry in parts]
            metadata = header.get("__metadata__", {})
            known = self.key in metadata
            about = json.loads(metadata[self.key]) if known else {}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            raise ValueError(no_header) from None
        if not known:
            raise ValueError(f"{path} is not a {self.called}, but another safetensors file")
        end = 8 + length + max(ends, default=0)
        if end > size:
            raise ValueError(f"{path} is truncated: {size} of {end} bytes are there")
        if end < size:
            raise ValueError(f"{path} is damaged: {size} bytes are there, where it has {end}")
        if not isinstance(about, dict):
            raise ValueError(no_header)
        return about


class Stored(ABC):
    """What a file of some kind holds: written whole or not at all, read whole or refused."""

    kind: ClassVar[FileKind]

    @abstractmethod
    def to_bytes(self) -> bytes:
        """Return what `save` writes, the same bytes for the same content."""

    @classmethod
    @abstractmethod
    def of_content(cls, tensors: dict[str, Tensor], about: Mapping[str, Any]) -> Self:
        """Return what a file's tensors and metadata say; raise a ValueError for what no `to_bytes` makes."""

    def save(self, path: str | os.PathLike) -> int:
        """Write the file whole or not at all; return its size in bytes.

        Raises:
            OSError: it cannot be written; what was there before is still there.
            ValueError: a part does not fit, is not finite, or the configuration is not JSON.
        """
        raw = self.to_bytes()
        with replacing(path) as temporary:
            temporary.write_bytes(raw)
        return len(raw)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Read a file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is of another kind or a newer format, truncated, or another than was written.
        """
        raw = cls.kind.read(path)
        about = cls.kind.check(raw, str(path))
        with malformed(f"{path} is not a valid {cls.kind.called}", ValueError, zlib.error, OverflowError):
            return cls.of_content(tensors_in(raw), about)


def stored(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor as a file takes it: on the processor, of its own memory."""
    return tensor.detach().cpu().contiguous().clone()


def tensors_in(raw: bytes) -> dict[str, Tensor]:
    """Return the tensors of a file (SafetensorError, ValueError: it is malformed)."""
    return load_tensors(raw)


def index_tensor(base: Base, more: Mapping[str, Any]) -> Tensor:
    """Return the index of a file: the base's parameters, and what the kind of file has beside them."""
    index = {
        "parameters": [[name, dtype, list(shape)] for name, (dtype, shape) in base.parameters.items()],
        "tied": {name: list(others) for name, others in base.tied.items()},
        **more,
    }
    return as_bytes(np.frombuffer(zlib.compress(json.dumps(index).encode(), 9), np.uint8))


def read_index(tensor: Tensor, hash_: Any) -> tuple[Base, dict[str, Any]]:
    """Read what `index_tensor` made: the base of this hash, and the whole index.

    Raises:
        ValueError: it is no such index, or becomes too large. KeyError, TypeError, zlib.error: it is none.
    """
    if tensor.dtype != torch.uint8 or tensor.dim() != 1:
        raise ValueError("index is not bytes")
    index = parse_json(_unzip(tensor.numpy().tobytes()), "its index")
    return base_of(hash_, index["parameters"], index["tied"]), index


def as_bytes(array: np.ndarray) -> Tensor:
    """Return a copy of an array as a tensor of bytes."""
    return torch.from_numpy(np.array(array, np.uint8))


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
