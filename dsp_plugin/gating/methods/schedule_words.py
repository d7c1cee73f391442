"""What a user is told of the schedule that was found for a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...options.errors import Spelling


def schedule_in_words(
    how: str, found: Mapping[str, Any], updates: int | None = None, spelling: Spelling = str
) -> str:
    """Say it in a line: "schedule (auto, for 804 updates): pruning_lr 0.1, annealing, ...".

    Args:
        how: see `schedule_of`. found: option -> value; what is None or off is left out.
        updates: of the whole run, where the schedule was worked out from them.
        spelling: how an option is to be named.
    """
    said = [_said(spelling(name), value) for name, value in found.items() if not is_off(value)]
    length = "" if updates is None else f", for {updates:,} updates"
    return f"schedule ({how}{length}): {', '.join(said)}"


def _said(name: str, value: Any) -> str:
    if value is True:
        return name
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def is_off(value: Any) -> bool:
    """Return whether an option was not given; 0 is a number like any other."""
    return value is None or value is False
