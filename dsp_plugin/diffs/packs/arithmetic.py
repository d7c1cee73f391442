"""Packs of one base beside each other: how much two tasks overlap, and their weighted sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...artefacts.base import Base
from ..sparse import SparseDiff
from .layers import layer_of
from .pack import DiffPack


@dataclass(frozen=True)
class Overlap:
    """The overlap of two diffs, over the whole base or one layer.

    Attributes:
        first, second: positions of each.
        both: positions that both change.
        cosine: of the two diffs as vectors over all weights; NaN where one of them is zero.
        same_sign: share of the common positions where both values have one sign; NaN where there are none.
        expected: common positions of two random choices of as many positions in every tensor.
    """

    first: int
    second: int
    both: int
    cosine: float
    same_sign: float
    expected: float

    @property
    def jaccard(self) -> float:
        """The common positions over those that either changes, 0 .. 1; NaN where neither changes any."""
        either = self.first + self.second - self.both
        return self.both / either if either else math.nan


@dataclass
class _Sums:
    first: int = 0
    second: int = 0
    both: int = 0
    same: int = 0
    expected: float = 0.0
    dot: float = 0.0
    norm_first: float = 0.0
    norm_second: float = 0.0

    def add(self, size: int, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> None:
        in_both, in_a, in_b = _meet(a[0], b[0])
        x, y = a[1].double(), b[1].double()
        self.first += len(a[0])
        self.second += len(b[0])
        self.both += in_both
        self.same += int((x[in_a].sign() == y[in_b].sign()).sum())
        self.expected += len(a[0]) * len(b[0]) / size
        self.dot += float(x[in_a] @ y[in_b])
        self.norm_first += float(x @ x)
        self.norm_second += float(y @ y)

    def overlap(self) -> Overlap:
        norm = math.sqrt(self.norm_first) * math.sqrt(self.norm_second)
        cosine = self.dot / norm if norm else math.nan
        same = self.same / self.both if self.both else math.nan
        return Overlap(self.first, self.second, self.both, cosine, same, self.expected)


def overlap(first: DiffPack, second: DiffPack) -> tuple[Overlap, dict[str, Overlap]]:
    """Measure the overlap over the whole base, and by layer (the task heads do not count).

    Raises:
        ValueError: the packs have different bases.
    """
    check_same_base([first, second])
    whole, layers = _Sums(), {}
    for name in first.diff.shapes:
        a, b = (pack.diff.entries.get(name, _NOTHING) for pack in (first, second))
        for sums in (whole, layers.setdefault(layer_of(name), _Sums())):
            sums.add(first.diff.size(name), a, b)
    return whole.overlap(), {layer: sums.overlap() for layer, sums in layers.items()}


def add_packs(
    packs: Sequence[DiffPack],
    weights: Sequence[float] | None = None,
    task_head: int | None = None,
    dtype: str = "float32",
) -> DiffPack:
    """Make the pack of the weighted sum of diffs (task arithmetic), on the union of their positions.

    Args:
        packs: of one base.
        weights: one a pack; default 1 each.
        task_head: number of the pack whose task head is taken; None for none, which only packs without allow.
        dtype: of the sum's values, which are added in float64.

    Raises:
        ValueError: different bases, no packs, another number of weights or one that is not finite, task heads
            and no choice between them, or a sum that `dtype` cannot hold.
    """
    packs = list(packs)
    weights = [1.0] * len(packs) if weights is None else [float(weight) for weight in weights]
    if not packs:
        raise ValueError("there are no packs to add")
    if len(weights) != len(packs):
        raise ValueError(f"{len(packs)} packs need as many weights, not {len(weights)}")
    if not all(map(math.isfinite, weights)):
        raise ValueError(f"weights must be finite, got {weights}")
    check_same_base(packs)
    last = len(packs) - 1
    if task_head is None and any(pack.task_head for pack in packs):
        choice = f"choose one by task_head=0 .. {last}"
        raise ValueError(f"the packs have task heads, which cannot be added: {choice}")
    if task_head is not None and not 0 <= task_head <= last:
        raise ValueError(f"task_head must be 0 .. {last}, got {task_head}")
    entries = {}
    for name in packs[0].diff.shapes:
        found = [(pack.diff.entries.get(name), weight) for pack, weight in zip(packs, weights)]
        parts = [(entry, weight) for entry, weight in found if entry is not None]
        if parts:
            entries[name] = _sum(parts)
    summands = [{"weight": weight, "config": pack.config} for pack, weight in zip(packs, weights)]
    diff = SparseDiff(entries, packs[0].diff.shapes)
    tensors = {} if task_head is None else packs[task_head].task_head
    return DiffPack.create(diff, packs[0].base, tensors, {"sum_of": summands}, dtype)


def check_same_base(packs: Sequence[DiffPack], names: Sequence[str] | None = None) -> Base:
    """Return the one base of all packs; `names` is what error messages call them.

    Raises:
        ValueError: they have different bases.
    """
    names = names or [f"pack {number}" for number in range(1, len(packs) + 1)]
    for pack, name in zip(packs, names):
        if (pack.base.hash, pack.base.parameters) != (packs[0].base.hash, packs[0].base.parameters):
            first, other = packs[0].base.hash[:12], pack.base.hash[:12]
            raise ValueError(f"different bases: {names[0]} was made on {first}..., {name} on {other}...")
    return packs[0].base


_NOTHING: tuple[Tensor, Tensor] = (torch.zeros(0, dtype=torch.int64), torch.zeros(0))


def _meet(a: Tensor, b: Tensor) -> tuple[int, Tensor, Tensor]:
    """Return the number of common positions, and where they are in each of two rising arrays."""
    place = torch.searchsorted(b, a)
    place_there = place.clamp(max=max(len(b) - 1, 0))
    hit = (b[place_there] == a) if len(b) else torch.zeros(len(a), dtype=torch.bool)
    return int(hit.sum()), hit.nonzero().squeeze(1), place_there[hit]  # hit [n] -> [common, 1] -> [common]


def _sum(parts: list[tuple[tuple[Tensor, Tensor], float]]) -> tuple[Tensor, Tensor]:
    positions = torch.cat([where for (where, _), _ in parts])
    values = torch.cat([what.double() * weight for (_, what), weight in parts])
    union, place = positions.unique(return_inverse=True)
    return union, torch.zeros(len(union), dtype=torch.float64).index_add_(0, place, values)
