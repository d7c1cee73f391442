"""S1: which weights of the frozen matrices are left, held as bits.

Weights are ranked in two global groups, each over all its matrices at once: those with an update (query and
value) by a score mode of `scores`, all others (key, dense, pooler) by magnitude. So many as were asked for
go, exactly. One shot, or gradually by a cubic schedule (Zhu & Gupta 2017), where what was pruned stays so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..options.errors import OptionError
from .ranking import largest


class PackedMask:
    """A mask of a tensor's shape, one bit a weight: 1 where it is left.

    Args:
        bits: uint8 [ceil(elements / 8)], the first weight in the highest bit. shape: of the tensor.

    Raises:
        ValueError: the bits are not those of a tensor of this shape.
    """

    def __init__(self, bits: Tensor, shape: tuple[int, ...]):
        self.shape = tuple(shape)
        self.size = math.prod(self.shape)
        if bits.dtype != torch.uint8 or tuple(bits.shape) != ((self.size + 7) // 8,):
            raise ValueError(f"a mask of shape {list(self.shape)} has other bits than {list(bits.shape)}")
        self.bits = bits
        if self.size % 8 and int(bits[-1]) & (0xFF >> self.size % 8):
            raise ValueError("a mask has bits behind its last weight")

    @classmethod
    def of(cls, mask: Tensor) -> PackedMask:
        """Pack a bool mask of any shape."""
        packed = np.packbits(mask.detach().cpu().numpy().reshape(-1))  # any shape -> [elements] -> [bytes]
        return cls(torch.from_numpy(packed), tuple(mask.shape))

    def mask(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the bool mask, True where a weight is left."""
        flags = np.unpackbits(self.bits.numpy(), count=self.size).view(bool)
        return torch.from_numpy(flags).view(self.shape).to(device)

    @property
    def kept(self) -> int:
        """The number of weights that are left."""
        return int(np.unpackbits(self.bits.numpy(), count=self.size).sum(dtype=np.int64))

    def select(self, dim: int, keep: Tensor) -> PackedMask:
        """Return the mask of the rows or columns, of dimension `dim`, where `keep` is True."""
        return PackedMask.of(self.mask().index_select(dim, keep.cpu().nonzero().squeeze(1)))

    def apply_(self, weight: Tensor) -> None:
        """Set the weights that are not left to exactly 0, in place."""
        if tuple(weight.shape) != self.shape:
            raise ValueError(f"a mask of shape {list(self.shape)} for a weight of {list(weight.shape)}")
        with torch.no_grad():
            weight.masked_fill_(~self.mask(weight.device), 0.0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PackedMask) and self.shape == other.shape and self.bits.equal(other.bits)

    __hash__ = None  # type: ignore[assignment]


def check_ratio(ratio: float, name: str = "pruning_ratio") -> None:
    """Raise an OptionError for a share of weights to prune that is none, NaN included."""
    number = isinstance(ratio, (int, float)) and not isinstance(ratio, bool)
    if not (number and 0 <= ratio < 1):
        raise OptionError(name, f"must be a share from 0 to below 1, got {ratio!r}")


def count_to_prune(ratio: float, total: int) -> int:
    """Return how many of `total` weights a share of them is, to the nearest whole number."""
    return math.floor(ratio * total + 0.5)


def prune_group(
    scores: Mapping[str, Tensor],
    ratio: float,
    pruned_before: Mapping[str, Tensor] = {},
    name: str = "pruning_ratio",
) -> dict[str, Tensor]:
    """Choose the weights that go from a group of matrices, ranked together.

    Args:
        scores: by matrix, of any shape; low ones go first, of equal ones those of the first matrices.
        ratio: share of all the group's weights, from 0 to below 1, that is gone afterwards.
        pruned_before: by matrix, bool, True for weights that have gone already: they stay gone and count.
        name: the option that `ratio` is, for messages.

    Returns:
        by matrix a bool mask, True for what is left

    Raises:
        OptionError: the ratio is no such share, or less than what has gone already.
        ValueError: a score is not a number.
    """
    check_ratio(ratio, name)
    if not scores:
        return {}
    # each of any shape -> [elements], together [n]; the largest of the negative scores are to go
    flat = torch.cat([-one.detach().reshape(-1) for one in scores.values()])
    count = count_to_prune(ratio, len(flat))
    none, device = torch.zeros((), dtype=torch.bool), flat.device
    marks = [pruned_before.get(key, none).to(device).expand(part.shape) for key, part in scores.items()]
    gone = torch.cat([mark.reshape(-1) for mark in marks])
    before = int(gone.sum())
    if before > count:
        reason = f"is {ratio}, {count:,} of {len(flat):,} weights, of which {before:,} are pruned already"
        raise OptionError(name, f"{reason}: what is pruned does not come back")
    if bool(flat.isnan().any()):
        raise ValueError("a score is not a number, so that nothing can be ranked by it")
    if before:
        # ranked among those that are left alone, so that no score, infinite or not, is mistaken for a mark
        left = (~gone).nonzero().squeeze(1)
        gone[left[largest(flat[left], count - before)]] = True
    else:
        gone[largest(flat, count)] = True
    parts = gone.split([part.numel() for part in scores.values()])
    return {key: ~part.view(one.shape) for (key, one), part in zip(scores.items(), parts)}


def cubic_ratio(update: int, first: int, last: int, ratio: float, start: float = 0.0) -> float:
    """Return the share that is pruned at an update: from `start` to `ratio`, fast at first (Zhu & Gupta).

    Args:
        update: the number of updates done. first, last: between which the share grows; equal ones are one
            shot.

    Raises:
        OptionError: a share is none, or falls. ValueError: the last update stands before the first.
    """
    check_ratio(ratio)
    check_ratio(start)
    if start > ratio:
        raise OptionError("pruning_ratio", f"{ratio} is less than the {start} it starts from")
    if last < first:
        raise ValueError(f"pruning cannot end at update {last} when it begins at {first}")
    if update >= last:
        return ratio
    if update <= first:
        return start
    return ratio + (start - ratio) * (1 - (update - first) / (last - first)) ** 3
