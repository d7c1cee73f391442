"""Exactly so many of the largest scores, the same ones every time."""

from __future__ import annotations

import torch
from torch import Tensor


def largest(scores: Tensor, count: int) -> Tensor:
    """Return the positions of the `count` largest scores; of equal ones those that stand first are taken.

    Args:
        scores: of any shape, infinite ones included; looked at row by row.

    Returns:
        [count] int64, rising, into the flattened scores.

    Raises:
        ValueError: a score is not a number, or there are fewer than `count`.
    """
    flat = scores.detach().reshape(-1)  # any shape -> [n]
    check_count(flat, count)
    if count == 0:
        return flat.new_zeros(0, dtype=torch.int64)
    if count == len(flat):
        return torch.arange(count, device=flat.device)
    least = flat.kthvalue(len(flat) - count + 1).values
    chosen = flat > least
    equal = (flat == least).nonzero().squeeze(1)
    chosen[equal[: count - int(chosen.sum())]] = True
    return chosen.nonzero().squeeze(1)


def check_count(scores: Tensor, count: int) -> None:
    """Raise a ValueError where `count` of these scores cannot be taken, or one of them is not a number."""
    if not 0 <= count <= scores.numel():
        raise ValueError(f"{count} of {scores.numel()} entries cannot be chosen")
    if bool(scores.isnan().any()):
        raise ValueError("a score is not a number, so that nothing can be ranked by it")
