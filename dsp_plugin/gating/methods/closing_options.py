"""The options of concrete gates: what closes them, and the gates that they make.

One family of gates, closed in different ways: by a price that the user gives (Voita), or by a constraint that
finds its price (Lagrangian).
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
from .concrete import OPEN_COST, ConcreteGates
from .lagrangian import LagrangianGates

CLOSINGS = ("penalty", "lagrangian")
"""What closes gates: a fixed price of an open one, or a multiplier that rises until few enough are open."""

CLOSING_UPDATES = 5000
"""Updates of the Lagrangian's rising target where nobody said, and nobody worked them out."""

_BUDGETS = ("num_of_heads", "heads_per_kind")


def closing_of(options: Mapping[str, Any]) -> str:
    """Return what closes gates of these options."""
    return options.get("closing") or "penalty"


def check_closing(asked: Mapping[str, Any]) -> None:
    """Refuse options that have no say beside what closes the gates.

    Args:
        asked: the method's options; None where they were not given.

    Raises:
        OptionError: naming the option.
    """
    closing, given = closing_of(asked), {name for name, value in asked.items() if value is not None}
    if closing not in CLOSINGS:
        raise OptionError("closing", f"must be one of {', '.join(CLOSINGS)}, got {closing!r}")
    if closing == "lagrangian":
        if "l0_penalty" in given:
            raise OptionError("l0_penalty", "is found by {} lagrangian itself: leave it out", "closing")
        if not given & {*_BUDGETS, "cost_share"}:
            reason = "lagrangian needs a budget: give {} K, or a number for each kind by {}"
            raise OptionError("closing", reason, *_BUDGETS)
    for name in () if closing == "lagrangian" else ("closing_updates", "cost_share"):
        if name in given:
            raise OptionError(name, "has a say with {} lagrangian alone", "closing")
    for name in _BUDGETS:
        if {"cost_share", name} <= given:
            raise OptionError("cost_share", "and {} are two budgets: give one of them", name)


@dataclass(frozen=True)
class ClosingOptions:
    """What closes concrete gates.

    Attributes:
        closing: of `CLOSINGS`.
        l0_penalty: lambda, of `penalty`; None: so that all heads open cost `OPEN_COST`.
        closing_updates: updates of the Lagrangian's rising target, from `pruning_warmup_updates` on.
        cost_share: of the cost of all units, what those that stay may cost together, in place of a budget.
    """

    closing: str = "penalty"
    l0_penalty: float | None = None
    closing_updates: int = CLOSING_UPDATES
    cost_share: float | None = None
    pruning_warmup_updates: int = 0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> ClosingOptions:
        """Take them out of the method's options; one that was not given has its default here."""
        known = ((field.name, options.get(field.name)) for field in fields(cls))
        return cls(**{name: value for name, value in known if value is not None})

    def gates(self, head_map: HeadMap, budget: HeadBudget | None, costs: Tensor | None = None) -> HeadScores:
        """Make the gates.

        Args:
            budget: wins over `cost_share`. costs: [N], what `cost_share` is of.

        Raises:
            ValueError: a Lagrangian without a budget; as the gates'.
        """
        if self.closing == "lagrangian":
            if budget is None and self.cost_share is not None:
                if costs is None:
                    raise OptionError("cost_share", "is of costs that this model does not tell")
                budget = CostBudget(costs, self.cost_share)
            if budget is None:
                raise OptionError("closing", "lagrangian needs a budget: give {}", "num_of_heads")
            return LagrangianGates(head_map, budget, self.closing_updates, self.pruning_warmup_updates)
        price = OPEN_COST / max(1, head_map.num_heads) if self.l0_penalty is None else self.l0_penalty
        return ConcreteGates(head_map, budget, price)

    def warnings(self, updates: int | None, spelling: Spelling) -> list[str]:
        """Say what to know before a training of so many updates; None where their number is not known."""
        last = self.pruning_warmup_updates + self.closing_updates
        if self.closing != "lagrangian" or updates is None or last <= updates:
            return []
        return [
            f"THE TARGET WILL NOT BE REACHED: it rises until update {last:,}, the training has {updates:,}. "
            f"More gates are open in training than are deployed: give {spelling('closing_updates')} that the "
            "training has room for."
        ]
