"""Folders in which a file or a folder is written before it takes its place, and taking that place."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of <fcntl.h> and <linux/fs.h>
# in a scratch folder: the folder that is being replaced, where the two cannot change places in one step
_OLD = ".old"


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Make a folder `.NAME.RANDOM.tmp` beside `path`, which nobody else can read, for the time of the block.

    Beside it, because renaming is only atomic within one file system. It is locked for as long as this
    process lives, so that those of killed processes are known and removed by the next one that writes `path`.

    Raises:
        OSError: it cannot be made.
    """
    prefix = f".{_beginning(path.name)}."
    recover(path)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=path.parent))
        handle = _locked(folder)
        if folder.exists():  # else another process took it for a leftover before it was locked
            break
        _close(handle)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _close(handle)


def recover(path: Path) -> None:
    """Remove what killed processes left of `path`; put back a folder that one was about to replace.

    Only folders of this user with such a name, which no living process holds.
    """
    form = re.compile(re.escape(f".{_beginning(path.name)}.") + r"[a-z0-9_]{8}\.tmp")
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if not form.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
                continue
            left = Path(entry.path)
            if entry.stat(follow_symlinks=False).st_uid != os.geteuid():
                continue
            handle = _locked(left)
            if handle is None:
                continue
            if (left / _OLD).is_dir() and not path.exists():
                with contextlib.suppress(OSError):
                    os.rename(left / _OLD, path)
            shutil.rmtree(left, ignore_errors=True)
            _close(handle)


def take_place(made: Path, path: Path) -> None:
    """Let the folder `made`, in a scratch folder, become `path`; a folder that is there goes to its place.

    In one step where the system can (Linux, on nearly all file systems); else there is a moment without
    `path`, and `recover` puts it back after a kill.

    Raises:
        OSError: it cannot; `path` is as it was.
    """
    if not path.exists():
        os.rename(made, path)
        return
    if _exchange(made, path):
        return
    old = made.with_name(_OLD)
    os.rename(path, old)
    try:
        os.rename(made, path)
    except BaseException:
        os.rename(old, path)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Return whether the two changed places; False where the system or file system knows no such thing."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # not Linux, or an old C library
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), os.fspath(other))


def _beginning(name: str) -> str:
    """Cut a name so that a file's name can still hold more (255 bytes)."""
    return name.encode()[:200].decode(errors="ignore")


def _locked(folder: Path) -> int | None:
    """Return a handle that locks the folder until it is closed.

    None where another process has it, or nothing can be locked.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _close(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)
