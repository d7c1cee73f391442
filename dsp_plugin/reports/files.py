"""Writing a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Iterator


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path beside `path`; on success it takes the place of `path`.

    When the body or the renaming fails, `path` is as it was and the temporary file is gone.
    A process that is killed leaves `path` as it was, too. Missing parent folders are made.

    Raises:
        OSError: the folder cannot be made or written (no space, no permission).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # same folder, because a rename is only atomic within one file system
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())  # else a power cut can leave a renamed, empty file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as UTF-8 to `path`, whole or not at all (see `replacing`)."""
    with replacing(path) as temporary:
        # newline="": line ends are the caller's (the csv module writes its own)
        with open(temporary, "w", encoding="utf-8", newline="") as handle:
            handle.write(text)
