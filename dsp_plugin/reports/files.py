"""Writing a file or a folder whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Iterator, Mapping


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


@contextlib.contextmanager
def new_folder(path: str | os.PathLike, mark: str) -> Iterator[Path]:
    """Gives an empty temporary folder beside `path`; on success it becomes `path`.

    When the body fails, nothing is left behind and `path` is as it was. A folder that is there already is replaced
    only if it is empty or holds the file `mark`: then it is an earlier result, and not something else of the user's.

    Raises:
        FileExistsError: there is a file at `path`, or a folder with other contents.
        OSError: the folder cannot be made or written.
    """
    path = Path(path)
    check_new_folder(path, mark)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    shutil.rmtree(temporary, ignore_errors=True)  # of a process of this number that was killed
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_new_folder(path: str | os.PathLike, mark: str) -> None:
    """Raises FileExistsError where `new_folder` would, for saying so before long work."""
    path = Path(path)
    if path.is_dir():
        if any(path.iterdir()) and not (path / mark).is_file():
            raise FileExistsError(f"the folder {path} is there already and holds other things (no {mark}): name a new one")
    elif path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} is a file: name a folder")


def check_output(option: str, path: str | os.PathLike, inputs: Mapping[str, object]) -> None:
    """For saying so before work is begun.

    Args:
        option: names `path`, which is to be written. inputs: option -> path that is read, None where it was not given.

    Raises:
        ValueError: the output is one of the inputs, and would write over it.
    """
    for name, read in inputs.items():
        if read is not None and os.path.exists(path) and os.path.exists(str(read)) and os.path.samefile(path, str(read)):
            raise ValueError(f"{option} {path} is what {name} reads: name another one")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as UTF-8 to `path`, whole or not at all (see `replacing`)."""
    with replacing(path) as temporary:
        # newline="": line ends are the caller's (the csv module writes its own)
        with open(temporary, "w", encoding="utf-8", newline="") as handle:
            handle.write(text)
