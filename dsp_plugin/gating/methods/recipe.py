"""The schedule of a choice of heads: by hand, as published, or worked out from the length of the run.

Notation: N heads in all, K kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...options.errors import OptionError
from ..budget import HeadBudget
from ..head_map import HeadMap
from .concrete import OPEN_COST

SCHEDULES = ("auto", "published")
STARTS = ("importance", "random")

BY_HAND = (
    "pruning_lr",
    "annealing",
    "use_ste",
    "initial_temperature",
    "final_temperature",
    "cooldown_steps",
    "pruning_warmup_updates",
    "l0_penalty",
)
"""Options of which each says that the schedule is the user's own."""

LEAST_UPDATES = 100
"""In a shorter run no choice of heads has settled, whatever the options."""


def schedule_of(options: Mapping[str, Any]) -> str:
    """Return how the schedule is found: "auto", "published" or "by hand".

    Args:
        options: name -> value, None or False where an option was not given; others are not looked at.

    Raises:
        OptionError: a schedule that is not known, or `auto` beside what it would work out itself.
    """
    asked = options.get("pruning_schedule")
    if asked is not None and asked not in SCHEDULES:
        raise OptionError("pruning_schedule", f"must be one of {', '.join(SCHEDULES)}, got {asked!r}")
    # not `in (None, False)`, of which 0 would be one: it is a number of updates, and a lambda
    values = {name: options.get(name) for name in BY_HAND}
    given = [name for name, value in values.items() if value is not None and value is not False]
    # straight-through is a choice of gates, which `auto` has a schedule for, if it is asked for by name
    excluded = [name for name in given if name != "use_ste"]
    if asked == "auto" and excluded:
        raise OptionError("pruning_schedule", "auto works {} out itself: leave one of them out", excluded[0])
    return asked or ("by hand" if given else "auto")


@dataclass(frozen=True)
class Setting:
    """What a schedule is worked out from.

    Attributes:
        method: "dsp" or "voita".
        joint: the model is trained, too. use_ste: straight-through gates.
        updates: of the whole run.
    """

    method: str
    joint: bool
    updates: int
    head_map: HeadMap
    num_of_heads: int | None = None
    per_kind: Mapping[str, int] | None = None
    use_ste: bool = False


def derive(setting: Setting) -> dict[str, Any]:
    """Work out the options of a choice of heads: name -> value.

    Raises:
        OptionError: the run is too short for any; says how many updates one needs.
    """
    if setting.updates < LEAST_UPDATES:
        reason = f"auto needs {LEAST_UPDATES} updates at least, the training has {setting.updates}"
        raise OptionError("pruning_schedule", reason)
    warmup = setting.updates // 3 if setting.joint else 0
    has_budget = setting.num_of_heads is not None or setting.per_kind is not None
    found: dict[str, Any] = {
        "init_scores": "importance" if has_budget else "random",
        "min_heads_per_block": _minimum(setting),
        "pruning_warmup_updates": warmup,
        "pruning_lr": 0.1,
    }
    if setting.method == "voita":
        return {**found, "open_cost": OPEN_COST}
    if setting.use_ste:
        return found
    return {
        **found,
        "annealing": True,
        "initial_temperature": 1.0,
        "final_temperature": 0.01,
        "cooldown_steps": (setting.updates - warmup) // 2,
    }


def _minimum(setting: Setting) -> int:
    """Return 1 where the budget has a head for every block, else 0."""
    if setting.num_of_heads is None and setting.per_kind is None:
        return 0
    try:
        HeadBudget(setting.head_map, setting.num_of_heads, setting.per_kind, minimum=1)
    except OptionError as error:
        if error.name != "min_heads_per_block":
            raise
        return 0
    return 1
