"""Removing heads step by step, least important first; and the two rankings that any method is compared with.

Notation: N heads in all; keep bool [N], True = still there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...options.errors import OptionError
from ..budget import HeadBudget, parse_heads_per_kind
from ..head_map import HeadMap

ImportanceOf = Callable[[Tensor], Tensor]
"""keep -> importance [N] of the heads that are still there; what it gives for the others is not looked at."""


@dataclass(frozen=True)
class Removal:
    """One step of a removal.

    Attributes:
        keep: bool [N] after it.
        removed: the heads that went, in their order.
        importance: [N], what they were chosen by.
    """

    keep: Tensor
    removed: list[int]
    importance: Tensor


def next_removals(
    importance: Tensor, keep: Tensor, count: int, budget: HeadBudget | None = None
) -> list[int]:
    """List the `count` least important heads that may go; of equal ones the higher index goes first.

    Args:
        importance: [N], no NaN among the heads still there.
        keep: bool [N].
        count: how many, at least 0.
        budget: what must be possible at the end: no kind of attention and no block falls below its share.

    Raises:
        ValueError: NaN, or fewer than `count` heads may go.
    """
    values, left = importance.tolist(), keep.clone()
    if bool(torch.isnan(importance[keep]).any()):
        raise ValueError("importance holds NaN, so heads have no order")
    removed: list[int] = []
    for head in sorted((h for h in range(len(values)) if bool(keep[h])), key=lambda h: (values[h], -h)):
        if len(removed) == count:
            break
        # which heads may go only ever shrinks, so that a head passed over need not be looked at again
        if budget is None or bool(budget.removable(left)[head]):
            left[head] = False
            removed.append(head)
    if len(removed) < count:
        living = int(keep.sum())
        raise ValueError(f"{count} heads were to go, but the budget lets only {len(removed)} of {living} go")
    return removed


def stops(living: int, step: int, budgets: Sequence[int] = ()) -> list[int]:
    """List the numbers of heads after each removal: down by `step`, through all budgets, to the least (or 0).

    Args:
        living: heads at the start.

    Raises:
        OptionError: a step or a budget that is not possible.
    """
    if not 1 <= step <= max(1, living):
        reason = f"is the number of heads to remove a step: 1..{living} here, got {step}"
        raise OptionError("num_of_heads", reason)
    wrong = [k for k in budgets if not 0 <= k <= living]
    if wrong:
        raise OptionError("budgets", f"must be in 0..{living} (heads of the model), got {wrong[0]}")
    last = min(budgets, default=0)
    return sorted({*range(living, last, -step), *budgets, last} - {living}, reverse=True)


def end_of_removal(
    head_map: HeadMap,
    budgets: Sequence[int] = (),
    per_kind: Mapping[str, int] | None = None,
    minimum: int = 0,
) -> HeadBudget | None:
    """Return what must hold when the last head has gone; None where nothing is asked for.

    Args:
        budgets: numbers of heads to land on. per_kind: heads left of each kind of attention.
        minimum: heads that every block keeps, as far as it has so many.

    Raises:
        OptionError: see `HeadBudget`.
    """
    if per_kind is not None:
        return HeadBudget(head_map, None, per_kind, minimum)
    if not minimum:
        return None
    least = sum(min(minimum, block.num_heads) for block in head_map.blocks)
    return HeadBudget(head_map, min(budgets, default=least), None, minimum)


class PathDown(NamedTuple):
    """The plan of a sweep.

    Attributes:
        kept_after: numbers of heads after every step, see `stops`.
        landings: those of them that were asked for.
        budget: what must hold at the end.
        wish: the same where it was asked for, else None.
    """

    kept_after: list[int]
    landings: list[int]
    budget: HeadBudget
    wish: HeadBudget | None


def path_down(
    head_map: HeadMap, living: int, step: int, budgets: Sequence[int] = (), end: HeadBudget | None = None
) -> PathDown:
    """Plan a sweep from `living` heads down by `step`, through every budget, to the smallest one or to `end`.

    Raises:
        OptionError: see `stops`; a budget is smaller than the end.
    """
    landings = [*budgets, *([end.total] if end else [])]
    kept_after = stops(living, step, landings)
    last = kept_after[-1] if kept_after else living
    if end is not None and last < end.total:
        reason = f"keeps {end.total} heads, and {{}} go down to {last}"
        raise OptionError("heads_per_kind", reason, "budgets")
    return PathDown(kept_after, landings, end or HeadBudget(head_map, last), end)


def plan_removal(
    head_map: HeadMap,
    living: int,
    step: int,
    budgets: Sequence[int] = (),
    heads_per_kind: str | None = None,
    min_heads_per_block: int = 0,
) -> PathDown:
    """Plan a sweep by its options: see `parse_heads_per_kind`, `end_of_removal` and `path_down`.

    Raises:
        OptionError: naming the one that cannot be.
    """
    per_kind = parse_heads_per_kind(heads_per_kind)
    end = end_of_removal(head_map, budgets, per_kind, min_heads_per_block)
    return path_down(head_map, living, step, budgets, end)


def remove_stepwise(
    importance_of: ImportanceOf,
    keep: Tensor,
    kept_after: Sequence[int],
    budget: HeadBudget | None = None,
    exact: bool = False,
    importance: Tensor | None = None,
) -> Iterator[Removal]:
    """Remove heads down to each number of `kept_after` in turn.

    Args:
        keep: bool [N] at the start.
        kept_after: falling numbers of heads, see `stops`.
        budget: see `next_removals`.
        exact: work out the importance anew under the current mask before every step; else once, at the start.
        importance: [N], worked out earlier; without `exact` it is not asked for again.
    """
    for number in kept_after:
        if exact or importance is None:
            importance = importance_of(keep)
        removed = next_removals(importance, keep, int(keep.sum()) - number, budget)
        keep = keep.clone()
        keep[removed] = False
        yield Removal(keep, removed, importance)


def ranking_of_removal(removed: Sequence[int], importance: Tensor) -> Tensor:
    """Return scores whose K largest are the heads left when K were: places in the order of removal.

    Args:
        removed: heads in the order they went.
        importance: [N], by which the heads that stayed are ranked among each other, above all others.

    Returns:
        [N] float32, the whole numbers 0..N-1
    """
    gone = set(removed)
    values = importance.tolist()
    stayed = sorted((h for h in range(len(values)) if h not in gone), key=lambda h: (values[h], -h))
    scores = torch.empty(len(values))
    for place, head in enumerate([*removed, *stayed]):
        scores[head] = float(place)
    return scores


def random_ranking(num_heads: int, seed: int) -> Tensor:
    """Return a random order of the heads as scores [N] float32, the same on every machine for one seed."""
    return torch.randperm(num_heads, generator=torch.Generator().manual_seed(seed)).float()


def weight_magnitude(inputs: Sequence[Tensor], output: Tensor, num_heads: int) -> Tensor:
    """Return the L2 norm of each head's own weights in one attention block.

    Args:
        inputs: the query, key and value projections' weights [h * d, C_in]; head i owns rows i*d .. i*d+d-1.
        output: the output projection's weight [C, h * d]; head i owns the same columns.
        num_heads: h.

    Returns:
        [h] float64
    """
    if not num_heads:
        return torch.zeros(0, dtype=torch.float64)
    parts = [*inputs, output.t()]
    # each [h * d, C] -> [h, d * C] -> [h]
    squares = [part.detach().double().reshape(num_heads, -1).square().sum(1) for part in parts]
    return torch.stack(squares).sum(0).sqrt()
