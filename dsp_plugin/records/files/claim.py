"""One program at a time in a folder that it fills."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ...options.errors import labelled
from .whole import check_folder

LOCK = ".in-use.lock"


@contextlib.contextmanager
def claimed(option: str, folder: str | os.PathLike, name: str = LOCK) -> Iterator[None]:
    """Keep other programs out of `folder` while the body runs; arguments and errors as `claim`."""
    lock = claim(option, folder, name)
    try:
        yield
    finally:
        give_back(lock)


def claim(option: str, folder: str | os.PathLike, name: str = LOCK) -> FileLock | None:
    """Lock a folder until `give_back`, until what it returns is gone, or this process ends in any way.

    Of several processes of one program the first claims; one process may claim again. The folder is made.

    Args:
        option: names `folder`; an option's name, or other words (`labelled`).
        name: of the lock's file in it.

    Returns:
        None where nothing can be locked (some network file systems): this is said, and nothing else changes.

    Raises:
        ValueError: another program is at work there, or no folder can be there.
    """
    check_folder(option, folder)
    path = Path(folder) / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _file_lock(path)
        lock.acquire(timeout=0)
    except Timeout:
        reason = f"{folder} is in use by {_owner(path)}: wait for its end, or name another folder"
        raise labelled(option, reason) from None
    except (OSError, NotImplementedError) as error:
        print(f"{folder} cannot be locked ({error}): let no other program write there now", file=sys.stderr)
        return None
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        os.close(handle)
    return lock


def give_back(lock: FileLock | None) -> None:
    """End a claim; None, or one that is over, is none."""
    if lock is None or not lock.is_locked:
        return
    if lock.lock_counter == 1:
        with contextlib.suppress(OSError):
            # before it is free: who waits for this very file looks whether it is still there
            os.unlink(lock.lock_file)
    lock.release()


def _file_lock(path: Path) -> FileLock:
    more = {"is_singleton": True, "thread_local": False}
    try:
        # not a file that is there or not, which outlives a killed process
        return FileLock(path, fallback_to_soft=False, **more)
    except TypeError:  # an earlier filelock, which knows no such thing
        return FileLock(path, **more)


def _owner(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")[:100].split("\n")[0] or "another program"
    except OSError:
        return "another program"
