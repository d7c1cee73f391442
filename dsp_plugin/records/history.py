"""The heads that a run would have kept while it trained: `heads.jsonl`, a line a moment, with one checksum.

The file is written anew at every moment, so that a kill never leaves a part of it, and what is missing is
noticed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .files.sealed import read_lines, write_lines

HISTORY = "heads.jsonl"


def append_heads(folder: str | os.PathLike, updates: int, keep: Sequence[Any]) -> None:
    """Append {"updates", "keep": 0 or 1 a head, in head-map order} to `folder`/heads.jsonl.

    Args:
        updates: optimizer updates made so far.
        keep: [N] of truth values; a list or a tensor on the CPU.

    Raises:
        ValueError: what is there is damaged. OSError: it cannot be written.
    """
    path = os.path.join(folder, HISTORY)
    entries = read_lines(path, warn=False) if os.path.isfile(path) else []
    write_lines(path, [*entries, {"updates": updates, "keep": [int(flag) for flag in keep]}])


def read_history(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Read the entries in the order of their updates; of a part trained twice (after a kill) the later one.

    Raises:
        ValueError: the file is damaged; says what to do. OSError: it cannot be read.
    """
    path = os.path.join(folder, HISTORY)
    if not os.path.isfile(path):
        return []
    by_updates = {}
    for number, entry in enumerate(read_lines(path), 1):
        if type(entry.get("updates")) is not int or not isinstance(entry.get("keep"), list):
            raise ValueError(f"{path}: line {number} must have updates and keep")
        by_updates[entry["updates"]] = entry
    return [by_updates[updates] for updates in sorted(by_updates)]


def rewrite_history(folder: str | os.PathLike, entries: Sequence[dict[str, Any]]) -> None:
    """Make these entries of `read_history` all that `folder`/heads.jsonl holds; without any it goes."""
    path = os.path.join(folder, HISTORY)
    if entries:
        write_lines(path, entries)
    elif os.path.isfile(path):
        os.remove(path)
