"""Which heads a run would have kept, noted while it trains: `heads.jsonl`, one line a moment."""

from __future__ import annotations

import json
import os
from typing import Any, Sequence

from .files import write_text

HISTORY = "heads.jsonl"


def append_heads(folder: str | os.PathLike, updates: int, keep: Sequence[Any]) -> None:
    """Appends {"updates", "keep": 0 or 1 a head, in head-map order} to `folder`/heads.jsonl.

    Args:
        updates: optimizer updates made so far.
        keep: [N] of truth values; a list or a tensor on the CPU.
    """
    os.makedirs(folder, exist_ok=True)
    entry = {"updates": updates, "keep": [int(flag) for flag in keep]}
    with open(os.path.join(folder, HISTORY), "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def read_history(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """The entries in the order of their updates; of a part that was trained twice (after a kill) the later one."""
    path = os.path.join(folder, HISTORY)
    if not os.path.isfile(path):
        return []
    by_updates = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                entry = json.loads(line)
                by_updates[int(entry["updates"])] = entry
            except (ValueError, KeyError, TypeError):  # the line that a kill cut off
                continue
    return [by_updates[updates] for updates in sorted(by_updates)]


def rewrite_history(folder: str | os.PathLike, entries: Sequence[dict[str, Any]]) -> None:
    """Makes these entries of `read_history` all that `folder`/heads.jsonl holds; without any, there is no such file."""
    path = os.path.join(folder, HISTORY)
    if entries:
        write_text(path, "".join(json.dumps(entry) + "\n" for entry in entries))
    elif os.path.isfile(path):
        os.remove(path)
