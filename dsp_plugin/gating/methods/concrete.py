"""Stretched concrete gates under an L0 penalty (Voita et al., ACL 2019; Louizos et al., ICLR 2018).

Notation: N heads, log_a [N] one learned location a head, u uniform noise, s the concrete variable in (0, 1),
(LOW, HIGH) what s is stretched to before it is clipped to [0, 1], so that exact zeros and ones are drawn.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...options.errors import OptionError
from ..budget import HeadBudget
from ..head_map import HeadMap
from ..head_scores import HeadScores
from .rounds import Rounds

BETA = 0.33
LOW, HIGH = -0.1, 1.1
EPS = 1e-6
OPEN_COST = 0.02
"""What all N heads open cost on the mean loss, where nobody said: lambda is OPEN_COST / N. A fixed lambda is
dearer the more heads there are, and with the published 0.0015 no gate of a small model (72 heads) stays open
on a small task."""


def stretch(s: Tensor) -> Tensor:
    """Stretch s in [0, 1] to (LOW, HIGH), clipped to [0, 1]; any shape."""
    return (s * (HIGH - LOW) + LOW).clamp(0.0, 1.0)


def concrete_gates(log_a: Tensor, u: Tensor, beta: float = BETA) -> Tensor:
    """Return gates [N] for noise u [N] in (0, 1): stretch(sigmoid((logit(u) + log_a) / beta)).

    They are differentiable in log_a [N] (Louizos et al., section 2.2).
    """
    return stretch(torch.sigmoid((u.log() - torch.log1p(-u) + log_a) / beta))


def soft_gates(log_a: Tensor) -> Tensor:
    """Return gates [N] without noise or BETA, stretch(sigmoid(log_a)): above 1/2 exactly where log_a > 0."""
    return stretch(torch.sigmoid(log_a))


def open_probability(log_a: Tensor, beta: float = BETA) -> Tensor:
    """Return P(gate > 0) of every head, [N]: sigmoid(log_a - beta log(-LOW / HIGH))."""
    return torch.sigmoid(log_a - beta * math.log(-LOW / HIGH))


def drawn_gates(log_a: Tensor, beta: float = BETA) -> Tensor:
    """Draw gates [N] float32 in [0, 1] with fresh noise, differentiable in log_a [N]."""
    # in double: next to 1, float32 has only 17 numbers in a millionth
    noise = torch.empty_like(log_a, dtype=torch.float64).uniform_(EPS, 1.0 - EPS)
    return concrete_gates(log_a.double(), noise, beta).float()


class ConcreteGates(HeadScores):
    """Voita's gates: heads close as far as the penalty outweighs the loss. `scores` is log_a.

    Args:
        budget: the K heads with the largest log_a are deployed (not by the clipped gates, which tie at 0 and
            1). None: those with log_a > 0, as many as the penalty has left open.
        l0_penalty: lambda, the loss of one head that is surely open.
        rounds: clips log_a, and opens closed gates again, from round to round; None: Voita's, who does not.

    Raises:
        OptionError: a lambda that is negative or not finite; K outside 0..N.
    """

    def __init__(
        self,
        head_map: HeadMap,
        budget: int | HeadBudget | None,
        l0_penalty: float,
        rounds: Rounds | None = None,
    ):
        super().__init__(head_map, budget)
        self.rounds = rounds
        if not 0 <= l0_penalty < math.inf:
            raise OptionError("l0_penalty", f"must be 0 or more and finite, got {l0_penalty}")
        self.l0_penalty = l0_penalty

    def sample(self) -> Tensor:
        """Draw gates [N] float32 in [0, 1], with fresh noise at every call; the budget does not hold here."""
        return drawn_gates(self.scores)

    def keep(self) -> Tensor:
        return self.scores.detach() > 0 if self.budget is None else super().keep()

    def soft_gates(self) -> Tensor:
        """Return gates [N] without noise: where there is no budget, those above 0.5 are deployed."""
        return soft_gates(self.scores.detach())

    def penalty(self) -> Tensor:
        """Return lambda times the expected number of open heads, a scalar."""
        return self.l0_penalty * open_probability(self.scores).sum()

    def metrics(self) -> dict[str, float | Tensor]:
        """Return the heads deployed, and the expected number of gates that are not 0 in training."""
        return {
            "heads_open": self.keep().sum(),
            "expected_open": open_probability(self.scores.detach()).sum(),
        }
