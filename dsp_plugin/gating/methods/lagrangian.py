"""Concrete gates under a Lagrangian: an L0 penalty that finds its own price (CoFi: Xia et al., ACL 2022).

Notation: N units, log_a [N], q0 [N] the probability that a gate is 0, s the closed share, t its target.

    s = 1 - sum(1 - q0) / N          (weighted by the costs of the units, where they have any)
    L = L_task + l1 (s - t) + l2 (s - t)^2

l1 and l2 begin at 0 and go up the gradient of L while all else goes down it: as long as too little is closed,
closing pays more and more. t rises from 0 to the budget's share in a straight line (CoFi, section 3.3; the
constraint is that of Wang, Wohlwend and Lei, EMNLP 2020). A fixed price, as Voita's, has to be searched for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...options.errors import OptionError
from ..budget import HeadBudget
from ..cost_budget import CostBudget
from ..head_map import HeadMap
from ..head_scores import HeadScores
from .concrete import drawn_gates, open_probability, soft_gates
from .rounds import Rounds

TEMPERATURE = 2 / 3
"""Of the stretched concrete distribution (Louizos et al., 2018; CoFi)."""


class LagrangianGates(HeadScores):
    """Gates whose closed share is held at a target; `scores` is log_a.

    The two multipliers of each budget are parameters too (`prices`), in the optimizer beside the scores:
    their gradient is turned round, so that whoever descends raises them.

    Attributes:
        of_mean_loss: the penalty belongs to the mean loss, and is multiplied where a host sums its loss.

    Args:
        budget: K, a `HeadBudget` (whose kinds have a constraint each) or a `CostBudget`.
        closing_updates: updates in which t rises from 0 to its end; 0: at once.
        start: the update that they count from.
        rounds: clips the scores, and opens closed gates again, from round to round; None: as in the paper.

    Raises:
        OptionError: a negative number of updates. ValueError: K outside 0..N, costs of other units.
    """

    of_mean_loss = True

    def __init__(
        self,
        head_map: HeadMap,
        budget: int | HeadBudget | CostBudget,
        closing_updates: int,
        start: int = 0,
        rounds: Rounds | None = None,
    ):
        by_cost = isinstance(budget, CostBudget)
        super().__init__(head_map, None if by_cost else budget)
        if closing_updates < 0:
            raise OptionError("closing_updates", f"must be 0 or more updates, got {closing_updates}")
        self.closing_updates, self.start, self.rounds = closing_updates, start, rounds
        rows, targets = [], []
        if by_cost:
            if budget.costs.numel() != self.num_heads:
                raise ValueError(f"{budget.costs.numel()} costs for {self.num_heads} units")
            self.budget = budget
            if self.num_heads:
                rows, targets = [budget.costs / budget.costs.sum()], [1.0 - budget.share]
        for index, kept in () if by_cost else self.budget.groups():
            if index.numel():
                row = torch.zeros(self.num_heads, dtype=torch.float64)
                rows.append(row.index_fill_(0, index, 1.0 / index.numel()))
                targets.append(1.0 - kept / index.numel())
        shares = torch.stack(rows) if rows else torch.zeros(0, self.num_heads)
        # [G, N]: what each unit is of its constraint's whole; [G]: the share to close
        self.register_buffer("shares", shares.float(), persistent=False)
        self.register_buffer("targets", torch.tensor(targets, dtype=torch.float32), persistent=False)
        self.prices = nn.Parameter(torch.zeros(2, len(targets)))  # l1 and l2 of every constraint

    def progress(self) -> float:
        """Return how far the target has risen, 0..1."""
        done = max(0, self.num_updates - self.start)
        return 1.0 if done >= self.closing_updates else done / self.closing_updates

    def follows_updates(self) -> bool:
        return self.progress() < 1.0

    def has_penalty(self) -> bool:
        """Return True: the penalty is 0 only as long as it is in no loss, because only there prices rise."""
        return bool(self.targets.numel())

    def sample(self) -> Tensor:
        """Draw gates [N] float32 in [0, 1], with fresh noise at every call."""
        gates = drawn_gates(self.scores, TEMPERATURE)
        # the prices are part of every forward pass: data-parallel training stops at parameters that are not
        return gates + 0.0 * self.prices.sum()

    def closed(self) -> Tensor:
        """Return s [G], the expected closed share of each constraint, differentiable in the scores."""
        return 1.0 - self.shares @ open_probability(self.scores, TEMPERATURE)

    def soft_gates(self) -> Tensor:
        """Return gates [N] without noise."""
        return soft_gates(self.scores.detach())

    def penalty(self) -> Tensor:
        """Return l1 (s - t) + l2 (s - t)^2, a scalar; the prices' gradient has the other sign."""
        gap = self.closed() - self.progress() * self.targets
        rising = 2.0 * self.prices.detach() - self.prices
        return (rising[0] * gap + rising[1] * gap.square()).sum()

    def metrics(self) -> dict[str, float | Tensor]:
        """Return the units deployed, those open in expectation and by the target, and the mean l1."""
        probability = open_probability(self.scores.detach(), TEMPERATURE)
        figures: dict[str, float | Tensor] = {
            "heads_open": self.keep().sum(),
            "expected_open": probability.sum(),
        }
        if self.targets.numel():
            figures["closed_share"] = self.closed().detach().mean()
            figures["closed_target"] = self.progress() * self.targets.mean()
            figures["price"] = self.prices.detach()[0].mean()
        return figures
