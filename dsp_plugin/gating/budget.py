"""How many heads to keep, and where: one budget a model or one a kind of attention, with a minimum a block.

Notation: N heads in all, K kept, m the minimum a block, T temperature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .head_map import HeadMap
from .sampling.limits import EPS
from .sampling.relaxed_topk import hard_topk, relaxed_topk, straight_through_topk


def check_budget(k: int, num_heads: int, option: str = "--num-of-heads") -> int:
    """Return K as an int.

    Raises:
        ValueError: K is not a whole number in 0..N; names `option` and the range.
    """
    if not 0 <= k <= num_heads or k != int(k):  # in this order: NaN fails the first
        raise ValueError(f"{option} must be a whole number in 0..{num_heads} (heads of the model), got {k}")
    return int(k)


@dataclass(frozen=True)
class _Group:
    """Heads [start, stop) of its blocks that share one budget."""

    budget: int
    blocks: tuple[tuple[int, int], ...]


class HeadBudget:
    """Exactly K heads, chosen by any scores [N].

    Args:
        head_map: the model's heads.
        total: K; None where `per_kind` says it.
        per_kind: a number of heads for every kind of attention the model has, instead of one for all.
        minimum: heads every block keeps at least, or all it has, if those are fewer.

    Raises:
        ValueError: naming the option: K outside 0..N, no K at all, kinds that the model does not have or that
            are missing, a sum other than K, a minimum that needs more heads than the budget has.
    """

    def __init__(
        self,
        head_map: HeadMap,
        total: int | None = None,
        per_kind: Mapping[str, int] | None = None,
        minimum: int = 0,
    ):
        self.num_heads = head_map.num_heads
        self.minimum = check_budget(minimum, self.num_heads, "--min-heads-per-block")
        ranges = {block.name: head_map.range(block.name) for block in head_map.blocks}
        if per_kind is None:
            if total is None:
                raise ValueError("--num-of-heads: no number of heads to keep was given")
            groups = [(check_budget(total, self.num_heads), tuple(ranges.values()), "--num-of-heads")]
        else:
            groups = self._by_kind(head_map, ranges, per_kind)
            if total is not None and total != sum(budget for budget, *_ in groups):
                raise ValueError(
                    f"--heads-per-kind adds up to {sum(budget for budget, *_ in groups)} heads, "
                    f"--num-of-heads says {total}"
                )
        for budget, blocks, option in groups:
            needed = sum(min(self.minimum, stop - start) for start, stop in blocks)
            if needed > budget:
                raise ValueError(
                    f"--min-heads-per-block {self.minimum} needs {needed} heads in {len(blocks)} blocks, "
                    f"{option} gives them {budget}"
                )
        self._groups = [_Group(budget, blocks) for budget, blocks, _ in groups]
        self.total = sum(group.budget for group in self._groups)

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
            ranked = torch.where(
                certain, torch.full_like(scores, torch.inf), scores.clamp(max=torch.finfo(scores.dtype).max)
            )
            keep[index] = hard_topk(ranked[index], group.budget)
        return keep

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
            scores: [N]. noise: [N] float64, see `gumbel_noise`.

        Returns:
            gates [N] float64, summing to K, and to its budget in every group.
        """
        if len(self._groups) == 1 and not self.minimum:
            return relaxed_topk(scores, self.total, temperature, noise)
        perturbed = scores.double() + noise
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
                    gates = gates.index_add(0, span, relaxed_topk(perturbed[start:stop], count, temperature))
            index = self._indices(group, scores.device)
            pushed = perturbed[index]
            if self.minimum:
                pushed = pushed + (1.0 - gates[index]).clamp(min=EPS).log()
            gates = gates.index_add(0, index, relaxed_topk(pushed, left, temperature))
        return gates

    def straight_through(self, scores: Tensor) -> Tensor:
        """Return gates [N], 1 for the heads of `select(scores)`, 0 for the others; backward the identity."""
        if len(self._groups) == 1 and not self.minimum:
            return straight_through_topk(scores, self.total)
        return self.select(scores.detach()).to(scores.dtype) + (scores - scores.detach())

    @staticmethod
    def _indices(group: _Group, device: torch.device) -> Tensor:
        spans = [torch.arange(start, stop, device=device) for start, stop in group.blocks]
        return torch.cat(spans) if spans else torch.zeros(0, dtype=torch.long, device=device)

    @staticmethod
    def _by_kind(head_map: HeadMap, ranges, per_kind: Mapping[str, int]) -> list[tuple]:
        kinds = list(dict.fromkeys(block.kind for block in head_map.blocks))
        if set(per_kind) != set(kinds):
            raise ValueError(
                f"--heads-per-kind must give a number for each of {', '.join(kinds)}; got {dict(per_kind)}"
            )
        groups = []
        for kind in kinds:
            blocks = tuple(ranges[block.name] for block in head_map.blocks if block.kind == kind)
            option = f"--heads-per-kind {kind}"
            groups.append(
                (check_budget(per_kind[kind], sum(b - a for a, b in blocks), option), blocks, option)
            )
        return groups


def as_budget(head_map: HeadMap, budget: int | HeadBudget) -> HeadBudget:
    """Return a budget as it is, and a number K as one budget for the whole model."""
    return budget if isinstance(budget, HeadBudget) else HeadBudget(head_map, budget)


def parse_heads_per_kind(text: str | None) -> dict | None:
    """Read "encoder-self=4,decoder-cross=4,decoder-self=1" as a dictionary; None stays None.

    Raises:
        ValueError: another form.
    """
    if not text:
        return None
    parts = [part.partition("=") for part in text.split(",")]
    try:
        numbers = {kind.strip(): int(number) for kind, _, number in parts}
    except ValueError:
        numbers = {}
    if len(numbers) != len(parts):
        raise ValueError(
            f"--heads-per-kind must look like encoder-self=4,decoder-cross=4,decoder-self=1; got {text!r}"
        )
    return numbers
