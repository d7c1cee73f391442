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
    "pruning_lr_decay_steps",
    "annealing",
    "use_ste",
    "initial_temperature",
    "final_temperature",
    "cooldown_steps",
    "final_noise",
    "pruning_warmup_updates",
    "l0_penalty",
    "closing_updates",
    "round_updates",
)
"""Options of which each says that the schedule is the user's own."""

LEAST_UPDATES = 100
"""In a shorter run no choice of heads has settled, whatever the options."""


START_WIDTH = 1.0
"""Scores that begin with a ranking lie in -1..1: beside Gumbel noise, of a deviation of 1.28, they say what
is likely and leave what is not within reach; at 3 the choice stayed where it began."""

SCORE_RATE = 0.1
"""An Adam step of the scores: the whole range of their start in twenty updates of one direction."""

FROZEN_RATE = 0.05
"""The same where weights stay and nothing makes up for a choice that is moved by chance; it falls to 0."""

MASK_SAMPLES = 32
"""Masks a training pass: the mean of their gradients has a sixth of one mask's deviation."""

PASS_RATE = 0.2
"""Of PASS, whose gates have 5 to go each way."""

ROUNDS = 30
"""In which PASS clips and reopens, as often as its paper has epochs."""

STRAIGHT_RATE = 0.01
"""The same without noise, where neighbouring scores are one step of 2 / (N - 1) apart."""


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
        sampler: how masks are drawn else, see `SubsetOptions`.
        closing: what closes concrete gates; reopens: whether they have rounds; concentrate: whether whole
            blocks are to go; of_mean_loss: what the host adds penalties to; see `ClosingOptions`.
        updates: of the whole run.
    """

    method: str
    joint: bool
    updates: int
    head_map: HeadMap
    num_of_heads: int | None = None
    per_kind: Mapping[str, int] | None = None
    use_ste: bool = False
    sampler: str = "relaxed"
    closing: str = "penalty"
    reopens: bool = False
    concentrate: bool = False
    of_mean_loss: bool = True


def derive(setting: Setting) -> dict[str, Any]:
    """Work out the options of a choice of heads: name -> value.

    A run that trains the model, too, has three parts of a length: all heads open, the choice, and training
    with the heads that were chosen. The choice begins with what a sweep by importance would keep, and its
    temperature and noise fall together, so that it ends at the deployed mask.

    Where the weights stay, there is nothing to train afterwards, and the choice is the whole run. Temperature
    and noise stay: at a T of 0.2 for 9 heads, beside noise of 1.28, most gates of a sample are near 0 or 1,
    so that what is learned is which masks are good; less noise has the scores make use of gates in between,
    and above 1, which are not deployed. The more heads are kept, the closer together the last of them and the
    first that is not, and the colder it has to be for that. The rate falls instead. An exact sample (SIMPLE)
    is a mask at any temperature: it stays 1 where the weights stay, as published, and falls beside the same
    scores where they learn, so that the last third is trained with the heads that are deployed.

    Raises:
        OptionError: the run is too short for any; says how many updates one needs.
    """
    if setting.updates < LEAST_UPDATES:
        reason = f"auto needs {LEAST_UPDATES} updates at least, the training has {setting.updates}"
        raise OptionError("pruning_schedule", reason)
    third = setting.updates // 3
    has_budget = setting.num_of_heads is not None or setting.per_kind is not None
    found: dict[str, Any] = {
        "init_scores": "importance" if has_budget else "random",
        "init_width": START_WIDTH,
        # Weights that learn make good use of a head in every block; those that stay have theirs where
        # training has put them, and one a block cost 2.0 instead of 1.87 nats after tuning.
        "min_heads_per_block": _minimum(setting) if setting.joint and not setting.concentrate else 0,
        "pruning_warmup_updates": third if setting.joint else 0,
    }
    if setting.method == "voita":
        return {**found, **_closing(setting, setting.updates - found["pruning_warmup_updates"])}
    if setting.use_ste:
        return {**found, "pruning_lr": STRAIGHT_RATE}
    found["mask_samples"] = MASK_SAMPLES
    exact = setting.sampler == "simple"
    if setting.joint:
        cooling = {"annealing": True, "initial_temperature": 1.0, "final_temperature": 0.01}
        noise = {} if exact else {"final_noise": 0.0}
        return {**found, "pruning_lr": SCORE_RATE, **cooling, **noise, "cooldown_steps": third}
    rate = {"pruning_lr": FROZEN_RATE, "pruning_lr_decay_steps": setting.updates}
    if exact:
        return {**found, **rate}
    temperature = _frozen_temperature(setting)
    staying = {"initial_temperature": temperature, "final_temperature": temperature, "final_noise": 1.0}
    return {**found, "annealing": True, **rate, **staying, "cooldown_steps": setting.updates}


def _closing(setting: Setting, choice: int) -> dict[str, Any]:
    """Return what closes concrete gates in a choice of so many updates.

    A Lagrangian's target is reached half-way. PASS has as many rounds as the paper has epochs; on a mean loss
    its price is that of an open head in Voita's penalty about half-way, too, and at its ceiling at the end.
    """
    rounds = {"round_updates": max(1, choice // ROUNDS)} if setting.reopens else {}
    if setting.closing == "pass":
        growth = {"closing_updates": choice // 2} if setting.of_mean_loss else {}
        return {"pruning_lr": PASS_RATE, **growth, **rounds}
    if setting.closing == "lagrangian":
        return {"pruning_lr": SCORE_RATE, "closing_updates": choice // 2, **rounds}
    return {"pruning_lr": SCORE_RATE, "open_cost": OPEN_COST, **rounds}


def _frozen_temperature(setting: Setting) -> float:
    """Return T where the weights stay: 0.2 up to 9 heads, then as much colder as there are more."""
    kept = HeadBudget(setting.head_map, setting.num_of_heads, setting.per_kind).total
    return round(min(0.2, 1.8 / max(1, kept)), 4)


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
