"""Almost-sure sparsity: exactly K gates open and T closed, with probability 1 (PASS; Ding et al., TMLR 2024).

Notation: N heads, K kept, T = N - K; phi [N] the scores; gates as Voita's (`concrete.py`), so that

    a = BETA log(-LOW / HIGH),  q0 = sigmoid(a - phi),  q1 = sigmoid(a + phi),  q_nb = 1 - q0 - q1

are the probabilities that a gate is 0, is 1, is neither.

    L = L_task + l [sum q_nb + |T - sum q0| + |K - sum q1|] + l lc sum over blocks of (1 - prod q0)

The last term, the concentrator (PASSCONC), empties whole blocks. The price l grows until exactly T gates are
closed. lc is the smallest weight at which the concentrator closes some head against whatever the first terms
do to open it, as the published BERT program works it out:

    lc = min over heads not closed of 2 max(1, q1' / q0') / prod over the block's other heads of q0

at the beginning of a round, capped; 0 while T gates or more are closed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..budget import HeadBudget
from ..head_map import HeadMap
from ..head_scores import HeadScores
from .concrete import BETA, HIGH, LOW, drawn_gates, soft_gates
from .rounds import CLIP, Rounds

A = BETA * math.log(-LOW / HIGH)


@dataclass(frozen=True)
class GrowingPrice:
    """l after so many times off target: start * factor^(times / over), at most `most`.

    Attributes:
        most: a ceiling, which the published programs do not have.
        by_round: times are counted at the beginning of every round from the second on, else at every update.
    """

    start: float
    factor: float
    over: float
    most: float
    by_round: bool

    def __call__(self, times: Tensor) -> Tensor:
        return (self.start * self.factor ** (times.double() / self.over)).clamp(max=self.most)


DOUBLING = GrowingPrice(0.1, 2.0, 1, 1e4, by_round=True)
"""Of the published MT program, on the token-summed loss: doubled every epoch."""
MOST_CONCENTRATION = 500.0
"""The cap of lc there."""


def thousandfold(updates: int) -> GrowingPrice:
    """Return the price of the published BERT program, on the mean loss: a thousandfold in 1000 updates."""
    return GrowingPrice(1e-5, 1000.0, max(1, updates), 1.0, by_round=False)


MOST_CONCENTRATION_OF_MEAN = 3000.0
"""The cap of lc there."""


class AlmostSureGates(HeadScores):
    """Gates whose penalty is 0 only where K of them are surely open and T surely closed; `scores` is phi.

    Args:
        budget: K, or a `HeadBudget`, each of whose numbers is a target of its own.
        price: how l grows.
        rounds: what is done from round to round, see `Rounds`.
        concentration: the cap of lc; None: no concentrator.

    Raises:
        ValueError: K outside 0..N.
    """

    def __init__(
        self,
        head_map: HeadMap,
        budget: int | HeadBudget,
        price: GrowingPrice,
        rounds: Rounds,
        concentration: float | None = None,
    ):
        super().__init__(head_map, budget)
        self.growth, self.rounds, self.concentration = price, rounds, concentration
        groups = self.budget.groups()
        members = torch.zeros(len(groups), self.num_heads)
        for row, (index, _) in zip(members, groups):
            row[index] = 1.0
        kept = torch.tensor([float(number) for _, number in groups])
        filled = [block for block in head_map.blocks if block.num_heads]
        blocks = torch.zeros(len(filled), self.num_heads)
        for row, block in zip(blocks, filled):
            row[slice(*head_map.range(block.name))] = 1.0
        self.register_buffer("members", members, persistent=False)  # [G, N]: the heads of each budget
        self.register_buffer("kept", kept, persistent=False)  # [G]
        self.register_buffer("blocks", blocks, persistent=False)  # [blocks, N]
        self.register_buffer("times_off", torch.zeros((), dtype=torch.long))
        self.register_buffer("weight", torch.zeros(()))  # lc

    def follows_updates(self) -> bool:
        return True

    def sample(self) -> Tensor:
        """Draw gates [N] float32 in [0, 1], with fresh noise at every call."""
        return drawn_gates(self.scores)

    def price(self) -> Tensor:
        """Return l, a scalar."""
        return self.growth(self.times_off)

    def soft_gates(self) -> Tensor:
        """Return gates [N] without noise."""
        return soft_gates(self.scores.detach())

    def penalty(self) -> Tensor:
        """Return the price times the terms of the formula above, a scalar."""
        q0, q1 = torch.sigmoid(A - self.scores), torch.sigmoid(A + self.scores)
        to_close = self.members.sum(1) - self.kept
        terms = (1.0 - q0 - q1).sum() + (to_close - self.members @ q0).abs().sum()
        terms = terms + (self.kept - self.members @ q1).abs().sum()
        if self.concentration is not None:
            all_closed = (self.blocks @ F.logsigmoid(A - self.scores)).exp()  # [blocks]
            terms = terms + self.weight * (1.0 - all_closed).sum()
        return self.price().to(terms.dtype) * terms

    @torch.no_grad()
    def begin_update(self, num_updates: int) -> bool:
        """Let price and concentrator follow the scores, then clip and reopen where a round begins.

        Returns:
            whether scores may have moved.
        """
        if not self.rounds.is_new(num_updates):
            return False
        begins = self.rounds.number(num_updates) > 1
        closed = self.members @ (self.scores <= -CLIP).float()  # [G]
        wanted = self.members.sum(1) - self.kept
        if begins or not self.growth.by_round:
            self.times_off.add_((closed != wanted).any())
        moved = self.rounds.begin(num_updates, self.scores)
        if self.concentration is not None:
            if begins:
                closed = self.members @ (self.scores <= -CLIP).float()
                self.weight.copy_(self.least_weight())
            self.weight.mul_((closed < wanted).any())
        return moved

    def least_weight(self) -> Tensor:
        """Work out lc by its rule, a scalar; the cap where all are closed."""
        q0, q1 = (torch.sigmoid(A + sign * self.scores.detach().double()) for sign in (-1, 1))
        log_q0 = q0.log()
        # [blocks, N] @ [N] -> [blocks]; then each head that of its block, without itself
        others = (self.blocks.double() @ log_q0) @ self.blocks.double() - log_q0
        opening = 2.0 * (q1 * (1.0 - q1) / (q0 * (1.0 - q0))).clamp(min=1.0)
        needed = (opening / others.exp().clamp(min=1e-8)).masked_fill(self.scores <= -CLIP, math.inf)
        most = needed.new_tensor(self.concentration)
        return torch.minimum(needed.amin(), most) if self.num_heads else most

    def metrics(self) -> dict[str, float | Tensor]:
        """Return the heads deployed, open in expectation, and closed for good; the price, and lc."""
        scores = self.scores.detach()
        figures: dict[str, float | Tensor] = {
            "heads_open": self.keep().sum(),
            "expected_open": torch.sigmoid(scores - A).sum(),
            "heads_closed": (scores <= -CLIP).sum(),
            "price": self.price(),
        }
        if self.concentration is not None:
            figures["concentration"] = self.weight.clone()
        return figures
