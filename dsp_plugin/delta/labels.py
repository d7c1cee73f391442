"""The names of combinations of methods in records, on every host."""

from __future__ import annotations

from collections.abc import Mapping

from .stages import in_order


def label_of(stages: Mapping[str, int]) -> str:
    """Name methods by their stages: `delta-bias+adapter` jointly, `delta-bias-then-adapter` one by one.

    Args:
        stages: method -> the stage in which it is trained.
    """
    numbers = sorted({*stages.values()})
    joint = ["+".join(in_order(name for name, stage in stages.items() if stage == n)) for n in numbers]
    return "delta-" + "-then-".join(joint)
