"""How many heads to keep, and where: one budget a model or one a kind of attention, with a minimum a block.

Heads and groups of neurons have no common size, so that one number for both together says nothing of what a
model costs: a map with both takes a number for each kind.

Notation: N heads in all, K kept, m the minimum a block, T temperature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..options.errors import OptionError
from .head_map import HeadMap
from .sampling.exact_subset import exact_subset
from .sampling.limits import EPS
from .sampling.relaxed_topk import hard_topk, relaxed_topk, straight_through_topk


def check_budget(k: int, num_heads: int, option: str = "num_of_heads", kind: str = "") -> int:
    """Return K as an int.

    Args:
        option, kind: what the number belongs to, and which kind of attention among those it names.

    Raises:
        OptionError: K is not a whole number in 0..N; says the range.
    """
    if not 0 <= k <= num_heads or k != int(k):  # in this order: NaN fails the first
        what = f"{kind} must be" if kind else "must be"
        raise OptionError(option, f"{what} a whole number in 0..{num_heads} (heads of the model), got {k}")
    return int(k)


@dataclass(frozen=True)
class _Group:
    """Heads [start, stop) of its blocks that share one budget; `kind`, where it is one kind's."""

    budget: int
    blocks: tuple[tuple[int, int], ...]
    kind: str = ""


def _groups_by_kind(
    head_map: HeadMap, ranges: Mapping[str, tuple[int, int]], per_kind: Mapping[str, int]
) -> list[_Group]:
    kinds = list(dict.fromkeys(block.kind for block in head_map.blocks))
    if set(per_kind) != set(kinds):
        reason = f"must give a number for each of {', '.join(kinds)}; got {dict(per_kind)}"
        raise OptionError("heads_per_kind", reason)
    groups = []
    for kind in kinds:
        blocks = tuple(ranges[block.name] for block in head_map.blocks if block.kind == kind)
        heads = sum(stop - start for start, stop in blocks)
        groups.append(_Group(check_budget(per_kind[kind], heads, "heads_per_kind", kind), blocks, kind))
    return groups


class HeadBudget:
    """Exactly K heads, chosen by any scores [N].

    Args:
        head_map: the model's heads.
        total: K; None where `per_kind` says it.
        per_kind: a number of heads for every kind of attention the model has, instead of one for all.
        minimum: heads every block keeps at least, or all it has, if those are fewer.

    Raises:
        OptionError: K outside 0..N, no K at all, kinds that the model does not have or that are missing, a
            sum other than K, a minimum that needs more heads than the budget has; one K for heads and groups
            of neurons together.
    """

    def __init__(
        self,
        head_map: HeadMap,
        total: int | None = None,
        per_kind: Mapping[str, int] | None = None,
        minimum: int = 0,
    ):
        self.num_heads = head_map.num_heads
        self.minimum = check_budget(minimum, self.num_heads, "min_heads_per_block")
        ranges = {block.name: head_map.range(block.name) for block in head_map.blocks}
        if per_kind is None:
            if total is None:
                raise OptionError("num_of_heads", "is missing: no number of heads to keep was given")
            if head_map.mixed:
                reason = "counts heads and groups of neurons together, which are not of one size: "
                raise OptionError("num_of_heads", f"{reason}give a number a kind with {{}}", "heads_per_kind")
            self._groups = [_Group(check_budget(total, self.num_heads), tuple(ranges.values()))]
        else:
            self._groups = _groups_by_kind(head_map, ranges, per_kind)
        self.total = sum(group.budget for group in self._groups)
        if total is not None and total != self.total:
            reason = f"adds up to {self.total} heads, {{}} says {total}"
            raise OptionError("heads_per_kind", reason, "num_of_heads")
        for group in self._groups:
            needed = sum(min(self.minimum, stop - start) for start, stop in group.blocks)
            if needed > group.budget:
                reason = f"{self.minimum} needs {needed} heads in {len(group.blocks)} blocks, "
                reason += f"{{}} {group.kind} gives" if group.kind else "{} gives"
                giver = "heads_per_kind" if group.kind else "num_of_heads"
                raise OptionError("min_heads_per_block", f"{reason} them {group.budget}", giver)

    def select(self, scores: Tensor) -> Tensor:
        """Choose the heads with the largest scores that keep to the budget; ties go to the lower index.

        Args:
            scores: [N], floating, no NaN.

        Returns:
            bool [N] with exactly K True.
        """
        if len(self._groups) == 1 and not self.minimum:
            return hard_topk(scores, self.total)
        keep = torch.zeros_like(scores, dtype=torch.bool)
        for group in self._groups:
            certain = torch.zeros_like(keep)
            for start, stop in group.blocks:
                certain[start:stop] = hard_topk(scores[start:stop], min(self.minimum, stop - start))
            index = self._indices(group, scores.device)
            # the best of every block first, then the best of what is left
            ranked = scores.clamp(max=torch.finfo(scores.dtype).max).masked_fill(certain, torch.inf)
            keep[index] = hard_topk(ranked[index], group.budget)
        return keep

    def groups(self) -> list[tuple[Tensor, int]]:
        """Return (indices of the heads, how many of them stay) of every budget."""
        return [(self._indices(group, torch.device("cpu")), group.budget) for group in self._groups]

    def removable(self, keep: Tensor) -> Tensor:
        """Return which heads of `keep`, bool [N], may go so that the budget can still be met: bool [N]."""
        may_go = torch.zeros_like(keep)
        for group in self._groups:
            if sum(int(keep[start:stop].sum()) for start, stop in group.blocks) <= group.budget:
                continue
            for start, stop in group.blocks:
                if int(keep[start:stop].sum()) > min(self.minimum, stop - start):
                    may_go[start:stop] = keep[start:stop]
        return may_go

    def relaxed(self, scores: Tensor, temperature: float, noise: Tensor) -> Tensor:
        """Draw relaxed gates that keep to the budget, differentiable in the scores.

        One group without a minimum is DSP's sampler. A minimum is drawn first, inside every block; what is
        left of the budget is drawn from the group with the heads already drawn pushed down by log(1 - z), as
        the sampler itself does from round to round. For T -> 0 it is `select(scores + noise)`.

        Args:
            scores: [N]. noise: [N] float64, see `gumbel_noise`; [M, N] for M samples.

        Returns:
            gates [N] (or [M, N]) float64, summing to K, and to its budget in every group.
        """
        alone = noise.dim() == 1
        if alone and len(self._groups) == 1 and not self.minimum:
            return relaxed_topk(scores, self.total, temperature, noise)
        perturbed = scores.double() + noise
        if len(self._groups) == 1 and not self.minimum:
            return relaxed_topk(perturbed, self.total, temperature)
        gates = torch.zeros_like(perturbed)
        for group in self._groups:
            left = group.budget
            if self.minimum:
                for start, stop in group.blocks:
                    count = min(self.minimum, stop - start)
                    if not count:
                        continue
                    left -= count
                    span = torch.arange(start, stop, device=scores.device)
                    drawn = relaxed_topk(perturbed[..., start:stop], count, temperature)
                    gates = gates.index_add(-1, span, drawn)
            index = self._indices(group, scores.device)
            pushed = perturbed[..., index]
            if self.minimum:
                pushed = pushed + (1.0 - gates[..., index]).clamp(min=EPS).log()
            gates = gates.index_add(-1, index, relaxed_topk(pushed, left, temperature))
        return gates

    def straight_through(self, scores: Tensor) -> Tensor:
        """Return gates [N], 1 for the heads of `select(scores)`, 0 for the others; backward the identity."""
        if len(self._groups) == 1 and not self.minimum:
            return straight_through_topk(scores, self.total)
        return self.select(scores.detach()).to(scores.dtype) + (scores - scores.detach())

    def exact(self, scores: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """Draw masks that keep to the budget, the likelier the larger their scores; see `exact_subset`.

        Args:
            scores: [N]. samples: M.

        Returns:
            masks [M, N] and their marginals [N], both float64 and differentiable, every mask with K ones.
        """
        marginals = torch.zeros_like(scores, dtype=torch.float64)
        masks = marginals.new_zeros(samples, self.num_heads)
        for group in self._groups:
            index = self._indices(group, scores.device)
            sizes = [stop - start for start, stop in group.blocks]
            drawn = exact_subset(scores[index], group.budget, samples, sizes, self.minimum)
            masks, marginals = (
                whole.index_copy(-1, index, part) for whole, part in zip((masks, marginals), drawn)
            )
        return masks, marginals

    @staticmethod
    def _indices(group: _Group, device: torch.device) -> Tensor:
        spans = [torch.arange(start, stop, device=device) for start, stop in group.blocks]
        return torch.cat(spans) if spans else torch.zeros(0, dtype=torch.long, device=device)


def best_of_blocks(head_map: HeadMap, scores: Tensor, counts: Mapping[str, int]) -> Tensor:
    """Choose the same number of units in every block of a kind, those with the largest scores.

    Args:
        scores: [N], floating, no NaN; ties go to the lower index.
        counts: {kind: units to keep in each of its blocks}; blocks of other kinds keep all they have.

    Returns:
        bool [N], True = kept

    Raises:
        OptionError: a kind that the model does not have, or more units than a block has.
    """
    kinds = dict.fromkeys(block.kind for block in head_map.blocks)
    for kind in counts:
        if kind not in kinds:
            reason = f"names {kind!r}: the model has {', '.join(kinds)}"
            raise OptionError("heads_per_kind", reason)
    keep = torch.ones(head_map.num_heads, dtype=torch.bool, device=scores.device)
    for block in head_map.blocks:
        if block.kind in counts:
            start, stop = head_map.range(block.name)
            count = check_budget(counts[block.kind], block.num_heads, "heads_per_kind", block.name)
            keep[start:stop] = hard_topk(scores[start:stop], count)
    return keep


def as_budget(head_map: HeadMap, budget: int | HeadBudget) -> HeadBudget:
    """Return a budget as it is, and a number K as one budget for the whole model."""
    return budget if isinstance(budget, HeadBudget) else HeadBudget(head_map, budget)


@dataclass(frozen=True)
class BudgetOptions:
    """The options of a budget.

    Attributes:
        num_of_heads: K; heads_per_kind: a text instead, see `parse_heads_per_kind`.
        min_heads_per_block: heads that every block keeps at least.
    """

    num_of_heads: int | None = None
    heads_per_kind: str | None = None
    min_heads_per_block: int = 0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> BudgetOptions:
        """Take the budget's options out of a method's."""
        return cls(**{field.name: options[field.name] for field in fields(cls)})

    @property
    def given(self) -> bool:
        """True where they say how many heads are to stay."""
        return self.num_of_heads is not None or bool(self.heads_per_kind)

    def check(self) -> None:
        """Check the options before there is a model.

        Raises:
            OptionError: no number of heads that a minimum could be part of; see `parse_heads_per_kind`.
        """
        parse_heads_per_kind(self.heads_per_kind)
        if self.min_heads_per_block and not self.given:
            reason = "needs a budget: give {} or {}"
            raise OptionError("min_heads_per_block", reason, "num_of_heads", "heads_per_kind")

    def budget(self, head_map: HeadMap) -> HeadBudget | None:
        """Make the budget of a model's heads; None where they say no number. Errors as `HeadBudget`."""
        if not self.given:
            return None
        per_kind = parse_heads_per_kind(self.heads_per_kind)
        return HeadBudget(head_map, self.num_of_heads, per_kind, self.min_heads_per_block)


def parse_heads_per_kind(text: str | None) -> dict | None:
    """Read "encoder-self=4,decoder-cross=4,decoder-self=1" as a dictionary; None stays None.

    Raises:
        OptionError: another form.
    """
    if not text:
        return None
    parts = [part.partition("=") for part in text.split(",")]
    try:
        numbers = {kind.strip(): int(number) for kind, _, number in parts}
    except ValueError:
        numbers = {}
    if len(numbers) != len(parts):
        reason = f"must look like encoder-self=4,decoder-cross=4,decoder-self=1; got {text!r}"
        raise OptionError("heads_per_kind", reason)
    return numbers
