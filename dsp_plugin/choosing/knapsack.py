"""The units that are worth most under a bound on their cost: a multiple-choice knapsack.

Inside a block all units cost the same, so that its c best ones are the best c of it: what is to be chosen is
one count for every block, under sum over blocks of cost(count) <= bound.

Notation: B blocks, h_b units of block b, S steps that the bound is divided into.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..options.errors import OptionError

STEPS = 1000


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        counts: units kept in every block.
        keep: for every block bool [h_b], True = kept: those with the largest scores, ties to the lower index.
        score: sum of the scores of the units kept.
        cost: sum of the blocks' costs, in the costs' own unit; at most the bound.
    """

    counts: list[int]
    keep: list[Tensor]
    score: float
    cost: float

    @property
    def mask(self) -> Tensor:
        """The blocks' flags one after the other, bool [N], as a head map numbers them."""
        return torch.cat(self.keep) if self.keep else torch.zeros(0, dtype=torch.bool)


@dataclass(frozen=True)
class _Item:
    """Blocks that share one count: the score and the cost of keeping 0, 1, ... units in each of them."""

    blocks: list[int]
    scores: np.ndarray
    costs: np.ndarray


def choose_units(
    scores: Sequence[Tensor | Sequence[float]],
    costs: Sequence[Tensor | Sequence[float]],
    bound: float,
    stacks: Sequence[Hashable] | None = None,
    steps: int = STEPS,
) -> Choice:
    """Choose a number of units for every block, so that the kept scores' sum is largest under a bound.

    Dynamic programming over the blocks: for each of S equal parts of the bound, the best that the blocks seen
    so far can do within it. What is remembered of it is its true cost, so that roundings do not add up; the
    bound is never exceeded (but by floating-point rounding). Where costs are whole numbers and the bound has
    at most S of them, the choice is exact; else it is at least as good as the best one under a bound smaller
    by B / S of it. Of equal sums the cheaper one is chosen.

    Args:
        scores: for every block [h_b], finite; the larger stays longer. A block may have no unit.
        costs: for every block [h_b + 1], finite and not negative: what it costs with 0, 1, ... h_b units.
        bound: the most that all blocks together may cost.
        stacks: for every block the name of its stack, whose blocks all keep the same number of units; None:
            every block has a number of its own.
        steps: S.

    Raises:
        OptionError: of `bound`, where nothing fits under it, or it is no number; of `uniform`, where the
            blocks of a stack have different numbers of units.
        ValueError: scores or costs of other shapes, or not finite.
    """
    values = [_numbers(block, f"scores of block {b}") for b, block in enumerate(scores)]
    prices = [_numbers(block, f"costs of block {b}") for b, block in enumerate(costs)]
    _check(values, prices, stacks)
    items = _items(values, prices, stacks)
    least = math.fsum(float(item.costs.min()) for item in items)
    if not math.isfinite(bound) or bound < least:
        raise OptionError("bound", f"{bound:g} cannot be: the least that these blocks can cost is {least:g}")
    chosen = _best(items, bound, _step(prices, bound, steps))
    counts = [0] * len(values)
    for item, count in zip(items, chosen):
        for block in item.blocks:
            counts[block] = count
    keep = [_largest(value, count) for value, count in zip(values, counts)]
    score = math.fsum(float(value[flags.numpy()].sum()) for value, flags in zip(values, keep))
    cost = math.fsum(float(price[count]) for price, count in zip(prices, counts))
    return Choice(counts, keep, score, cost)


def _best(items: Sequence[_Item], bound: float, step: float) -> list[int]:
    """Return the count of every item. The states after each item are kept, to walk back through them."""
    scores, costs, limit = np.zeros(1), np.zeros(1), bound * (1 + 1e-12)
    history = []
    rest = _rest_costs(items)
    for item, after in zip(items, rest):
        # [states, counts]: every state so far goes on with every count
        new_costs = costs[:, None] + item.costs[None, :]
        new_scores = scores[:, None] + item.scores[None, :]
        state, count = np.nonzero(new_costs + after <= limit)
        new_costs, new_scores = new_costs[state, count], new_scores[state, count]
        part = np.ceil(new_costs / step - 1e-9).astype(np.int64)
        best = _one_a_part(part, new_scores, new_costs)
        history.append((state[best], count[best]))
        scores, costs = new_scores[best], new_costs[best]
    order = np.lexsort((costs, -scores))
    chosen, at = [], int(order[0])
    for state, count in reversed(history):
        chosen.append(int(count[at]))
        at = int(state[at])
    return chosen[::-1]


def _one_a_part(part: np.ndarray, scores: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Return the positions of the best state of each part, without those that a cheaper one beats."""
    order = np.lexsort((costs, -scores, part))
    _, first = np.unique(part[order], return_index=True)
    best = order[first]  # one a part, parts rising
    highest = np.maximum.accumulate(scores[best])
    better = np.ones(len(best), dtype=bool)
    better[1:] = scores[best][1:] > highest[:-1]
    return best[better]


def _rest_costs(items: Sequence[_Item]) -> np.ndarray:
    """Return, for every item, the least that those after it cost together."""
    least = np.array([float(item.costs.min()) for item in items])
    return np.concatenate([np.cumsum(least[::-1])[::-1][1:], np.zeros(1)]) if len(items) else least


def _step(prices: Sequence[np.ndarray], bound: float, steps: int) -> float:
    """Return the size of a part of the bound: one unit of whole costs where these are few enough."""
    if steps < 1:
        raise ValueError(f"the bound must be divided into 1 part or more, got {steps}")
    whole = all(bool((price == np.round(price)).all()) and price.max(initial=0) < 2**53 for price in prices)
    divisor = math.gcd(*(int(one) for price in prices for one in price)) if whole else 0
    if divisor and bound / divisor <= steps:
        return float(divisor)
    return bound / steps if bound else 1.0


def _items(
    values: Sequence[np.ndarray], prices: Sequence[np.ndarray], stacks: Sequence[Hashable] | None
) -> list[_Item]:
    names = list(range(len(values))) if stacks is None else list(stacks)
    members: dict[Hashable, list[int]] = {}
    for block, name in enumerate(names):
        members.setdefault(name, []).append(block)
    found = []
    for name, blocks in members.items():
        sizes = {len(values[block]) for block in blocks}
        if len(sizes) > 1:
            reason = f"cannot be: the blocks of {name} have different numbers of units ({sorted(sizes)})"
            raise OptionError("uniform", reason)
        sums = [np.concatenate([np.zeros(1), np.cumsum(np.sort(values[b])[::-1])]) for b in blocks]
        found.append(_Item(blocks, np.sum(sums, axis=0), np.sum([prices[b] for b in blocks], axis=0)))
    return found


def _largest(values: np.ndarray, count: int) -> Tensor:
    keep = torch.zeros(len(values), dtype=torch.bool)
    keep[torch.from_numpy(np.argsort(-values, kind="stable")[:count].copy())] = True
    return keep


def _numbers(block: Tensor | Sequence[float], what: str) -> np.ndarray:
    values = torch.as_tensor(block).detach().to("cpu", torch.float64).numpy()
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"the {what} must be finite numbers in one dimension")
    return values


def _check(
    values: Sequence[np.ndarray], prices: Sequence[np.ndarray], stacks: Sequence[Hashable] | None
) -> None:
    if len(values) != len(prices) or stacks is not None and len(stacks) != len(values):
        names = "" if stacks is None else f" and {len(stacks)} names of stacks"
        raise ValueError(f"scores of {len(values)} blocks, costs of {len(prices)}{names}")
    for block, (value, price) in enumerate(zip(values, prices)):
        if len(price) != len(value) + 1:
            needed = f"{len(value)} units need costs of 0 .. {len(value)}, {len(value) + 1} numbers"
            raise ValueError(f"block {block}: {needed}; there are {len(price)}")
        if bool((price < 0).any()):
            raise ValueError(f"block {block} has a negative cost")
