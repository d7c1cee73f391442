"""JSON with a checksum, compressed: written whole or not at all, and bounded when it is read."""

from __future__ import annotations

import lzma
import os
from pathlib import Path
from typing import Any

from dsp_plugin.records.files.sealed import MAX_BYTES, DamagedError, content_of, read_bounded, seal_text
from dsp_plugin.records.files.whole import replacing


def write_packed(path: str | os.PathLike, text: str) -> None:
    """Write JSON with its checksum, compressed."""
    with replacing(path) as temporary:
        temporary.write_bytes(lzma.compress(seal_text(text).encode()))


def read_packed(path: str | os.PathLike) -> Any:
    """Read what the file says, without its checksum; compressed (`.xz`) or not.

    Raises:
        DamagedError: it is not what was written, or larger than such a file can be.
        OSError: it cannot be read.
    """
    try:
        data = read_bounded(path)
        if Path(path).suffix == ".xz":
            unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_BYTES)
            data = unpacker.decompress(data, max_length=MAX_BYTES)
            if not unpacker.eof or unpacker.unused_data:
                raise ValueError("its end is missing, or something follows it")
    except (ValueError, EOFError, lzma.LZMAError) as error:
        raise DamagedError(f"{path} is damaged: {error}") from None
    return content_of(path, data)
