"""Corrections of the bound, where a model measures other than its parts add up to.

A cost is always measured in one unit (seconds, say); asked for is a cost of whole / X.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_ROUNDS = 3
TOLERANCE = 0.05


@dataclass(frozen=True)
class Round:
    """One choice that was measured.

    Attributes:
        bound: the bound on the whole model's cost that it was made under.
        measured: what the model then cost.
    """

    bound: float
    measured: float


def is_near(measured: float, wanted: float, tolerance: float = TOLERANCE) -> bool:
    """Whether a measured cost is what was asked for, to 5 %: wanted / measured is the ratio of speeds."""
    return abs(wanted / measured - 1.0) <= tolerance if measured > 0 else False


def next_bound(rounds: Sequence[Round], wanted: float, least: float, most: float) -> float:
    """Return the bound of the next round.

    After one round the bound moves by as much as the model missed; after two by the straight line through
    both, where that rises.

    Args:
        rounds: one or more.
        wanted: the cost asked for.
        least, most: the bound stays between them.
    """
    last = rounds[-1]
    bound = last.bound + wanted - last.measured
    if len(rounds) > 1:
        before = rounds[-2]
        run, rise = last.bound - before.bound, last.measured - before.measured
        if run * rise > 0:
            bound = last.bound + (wanted - last.measured) * min(max(run / rise, 0.25), 4.0)
    return min(max(bound, least), most)


def nearest(rounds: Sequence[Round], wanted: float) -> int:
    """Return the position of the round whose measured cost is nearest to the one asked for, as a ratio."""
    return min(range(len(rounds)), key=lambda n: abs(wanted / max(rounds[n].measured, 1e-300) - 1.0))
