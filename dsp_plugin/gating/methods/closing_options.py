"""The options of concrete gates: what closes them, what opens them again, and the gates that they make.

One family of gates, closed in different ways: by a price that the user gives (Voita), by a constraint that
finds its price (Lagrangian), by terms that are 0 only where all gates are decided (PASS).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from ...options.errors import OptionError, Spelling
from ..budget import HeadBudget
from ..cost_budget import CostBudget
from ..head_map import HeadMap
from ..head_scores import HeadScores
from .almost_sure import (
    DOUBLING,
    MOST_CONCENTRATION,
    MOST_CONCENTRATION_OF_MEAN,
    AlmostSureGates,
    thousandfold,
)
from .concrete import OPEN_COST, ConcreteGates
from .lagrangian import LagrangianGates
from .rounds import REOPENINGS, Rounds

CLOSINGS = ("penalty", "lagrangian", "pass")
"""What closes gates: a fixed price of an open one; a multiplier that rises until few enough are open; a price
of gates that are not decided, which grows until exactly so many are closed."""

CLOSING_UPDATES = {"lagrangian": 5000, "pass": 1000}
"""`closing_updates` where nobody said, and nobody worked them out."""

_BUDGETS = ("num_of_heads", "heads_per_kind")


def closing_of(options: Mapping[str, Any]) -> str:
    """Return what closes gates of these options."""
    return options.get("closing") or "penalty"


def reopening_of(options: Mapping[str, Any]) -> str:
    """Return what is done to closed gates of these options: PASS reopens some, the others none."""
    return options.get("reopening") or ("reopen" if closing_of(options) == "pass" else "off")


def label_of(options: Mapping[str, Any]) -> str:
    """Return the method's name in records, "" for Voita's own."""
    closing, parts = closing_of(options), []
    if closing != "penalty":
        parts.append(closing + ("conc" if options.get("concentrate") else ""))
    if reopening_of(options) != reopening_of({"closing": closing}):
        parts.append(reopening_of(options))
    return "-".join(["voita", *parts]) if parts else ""


def check_closing(asked: Mapping[str, Any], of_mean_loss: bool = True) -> None:
    """Refuse options that have no say beside what closes the gates.

    Args:
        asked: the method's options; None, and False of a switch, where they were not given.
        of_mean_loss: see `ClosingOptions.gates`.

    Raises:
        OptionError: naming the option.
    """
    closing = closing_of(asked)
    given = {name for name, value in asked.items() if value is not None and value is not False}
    if closing not in CLOSINGS:
        raise OptionError("closing", f"must be one of {', '.join(CLOSINGS)}, got {closing!r}")
    if reopening_of(asked) not in REOPENINGS:
        reason = f"must be one of {', '.join(REOPENINGS)}, got {asked['reopening']!r}"
        raise OptionError("reopening", reason)
    if closing != "penalty" and "l0_penalty" in given:
        raise OptionError("l0_penalty", f"is found by {{}} {closing} itself: leave it out", "closing")
    enough = {*_BUDGETS, "cost_share"} if closing == "lagrangian" else {*_BUDGETS}
    if closing != "penalty" and not given & enough:
        reason = f"{closing} needs a budget: give {{}} K, or a number for each kind by {{}}"
        raise OptionError("closing", reason, *_BUDGETS)
    takes_updates = ("lagrangian", "pass") if of_mean_loss else ("lagrangian",)
    for name, closings in (
        ("closing_updates", takes_updates),
        ("cost_share", ("lagrangian",)),
        ("concentrate", ("pass",)),
    ):
        if name in given and closing not in closings:
            raise OptionError(name, f"has a say with {{}} {' and '.join(closings)} alone", "closing")
    for name in _BUDGETS:
        if {"cost_share", name} <= given:
            raise OptionError("cost_share", "and {} are two budgets: give one of them", name)
    if "round_updates" in given and closing != "pass" and reopening_of(asked) == "off":
        raise OptionError("round_updates", "has a say with {} or {} pass alone", "reopening", "closing")


@dataclass(frozen=True)
class ClosingOptions:
    """What closes concrete gates, and what opens them again.

    Attributes:
        closing: of `CLOSINGS`.
        l0_penalty: lambda, of `penalty`; None: so that all heads open cost `OPEN_COST`.
        closing_updates: `lagrangian`: updates of the rising target, from `pruning_warmup_updates` on; `pass`
            on a mean loss: updates off target in which the price grows a thousandfold.
        cost_share: of the cost of all units, what those that stay may cost together, in place of a budget.
        round_updates: updates in a round of `pass`, and of reopening; None: those of an epoch.
        reopening: of `REOPENINGS`. concentrate: PASSCONC.
    """

    closing: str = "penalty"
    l0_penalty: float | None = None
    closing_updates: int | None = None
    cost_share: float | None = None
    round_updates: int | None = None
    reopening: str = "off"
    concentrate: bool = False
    pruning_warmup_updates: int = 0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> ClosingOptions:
        """Take them out of the method's options; one that was not given has its default here."""
        known = {field.name: options.get(field.name) for field in fields(cls)}
        known["reopening"] = reopening_of(options)
        return cls(**{name: value for name, value in known.items() if value is not None})

    @property
    def updates(self) -> int:
        """The updates of closing."""
        return CLOSING_UPDATES.get(self.closing, 0) if self.closing_updates is None else self.closing_updates

    def gates(
        self,
        head_map: HeadMap,
        budget: HeadBudget | None,
        costs: Tensor | None = None,
        of_mean_loss: bool = True,
    ) -> HeadScores:
        """Make the gates.

        Args:
            budget: wins over `cost_share`. costs: [N], what `cost_share` is of.
            of_mean_loss: whether the host adds penalties to the mean loss or, as the published MT programs
                do, to the token-summed loss: PASS has another price for each.

        Raises:
            ValueError: a constraint without a budget; groups of neurons that are to reopen, whose confidence
                no attention tells; as the gates'.
        """
        start = self.pruning_warmup_updates
        if self.reopening == "reopen" and any(block.neurons for block in head_map.blocks):
            reason = "reopen is by attention weights, which groups of neurons do not have: give {} clip"
            raise OptionError("reopening", reason, "reopening")
        rounds = Rounds(self.reopening, self.round_updates, start)
        if self.closing == "penalty":
            price = OPEN_COST / max(1, head_map.num_heads) if self.l0_penalty is None else self.l0_penalty
            return ConcreteGates(head_map, budget, price, None if self.reopening == "off" else rounds)
        if budget is None and self.cost_share is not None:
            if costs is None:
                raise OptionError("cost_share", "is of costs that this model does not tell")
            budget = CostBudget(costs, self.cost_share)
        if budget is None:
            raise OptionError("closing", f"{self.closing} needs a budget: give {{}}", "num_of_heads")
        if self.closing == "lagrangian":
            again = None if self.reopening == "off" else rounds
            return LagrangianGates(head_map, budget, self.updates, start, again)
        most = MOST_CONCENTRATION_OF_MEAN if of_mean_loss else MOST_CONCENTRATION
        price = thousandfold(self.updates) if of_mean_loss else DOUBLING
        return AlmostSureGates(head_map, budget, price, rounds, most if self.concentrate else None)

    def warnings(self, updates: int | None, spelling: Spelling) -> list[str]:
        """Say what to know before a training of so many updates; None where their number is not known."""
        last = self.pruning_warmup_updates + self.updates
        if self.closing != "lagrangian" or updates is None or last <= updates:
            return []
        return [
            f"THE TARGET WILL NOT BE REACHED: it rises until update {last:,}, the training has {updates:,}. "
            f"More gates are open in training than are deployed: give {spelling('closing_updates')} that the "
            "training has room for."
        ]
