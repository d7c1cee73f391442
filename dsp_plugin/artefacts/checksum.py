"""A checksum inside a safetensors file: the SHA-256 of the whole file with zeros in the checksum's own place.

It stands in the file's metadata, where the writer puts `NO_CHECKSUM` first: no byte can change unnoticed.
"""

from __future__ import annotations

import hashlib
import os

NO_CHECKSUM = "0" * 64


def seal(path: str | os.PathLike) -> None:
    """Put the checksum into a file whose metadata hold `NO_CHECKSUM`."""
    place, checksum = _digest(path, NO_CHECKSUM)
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(checksum.encode())


def fits(path: str | os.PathLike, checksum: object) -> bool:
    """Return whether a file is what was sealed with the checksum that its metadata hold."""
    whole = isinstance(checksum, str) and len(checksum) == len(NO_CHECKSUM)
    return whole and _digest(path, checksum)[1] == checksum


def _digest(path: str | os.PathLike, written: str) -> tuple[int, str]:
    """Find where the checksum `written` stands in the file (-1: nowhere), and what it should be."""
    with open(path, "rb") as file:
        start = file.read(8)
        header = start + file.read(int.from_bytes(start, "little"))
        digest = hashlib.sha256(header.replace(written.encode(), NO_CHECKSUM.encode(), 1))
        for block in iter(lambda: file.read(1 << 22), b""):
            digest.update(block)
    return header.find(written.encode()), digest.hexdigest()
