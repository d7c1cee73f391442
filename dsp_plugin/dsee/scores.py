"""Scores by which weights and heads are pruned: what a trained update says of the frozen matrices under it.

Notation: W0 the frozen matrix [m, n]; B A [m, n] the low rank, S the sparse part, s the scale of both. Low
scores go first.

    W      |W0|                      AB     |s BA|            NAB    1 / |s BA|
    random  a number by chance       ABS    |s (BA + S)|      NABS   1 / |s (BA + S)|
                                     WAB    |W0 + s BA|       WABS   |W0 + s (BA + S)|
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..options.errors import OptionError

MODES = ("W", "AB", "ABS", "WAB", "WABS", "NAB", "NABS", "random")
HEAD_MODES = ("ABS", "WABS")


@dataclass(frozen=True)
class Matrix:
    """A frozen matrix and its update, for scoring.

    Attributes:
        weight: W0 [m, n]. down: A [r, n]. up: B [m, r]. positions, values: S, [N] into the flattened matrix
            and [N]. scale: s.
    """

    weight: Tensor
    down: Tensor
    up: Tensor
    positions: Tensor
    values: Tensor
    scale: float

    def update(self, sparse: bool = True) -> Tensor:
        """Return BA + S (BA alone without `sparse`), without the scale, [m, n]."""
        change = self.up.detach() @ self.down.detach()  # [m, r] @ [r, n]
        if sparse:
            change.view(-1)[self.positions] += self.values.detach().to(change.dtype)
        return change


def check_mode(mode: str) -> None:
    """Raise an OptionError for a score mode that there is not."""
    if mode not in MODES:
        raise OptionError("prune_mode", f"must be one of {', '.join(MODES)}, got {mode!r}")


def weight_scores(matrix: Matrix, mode: str, generator: torch.Generator) -> Tensor:
    """Score every weight of a matrix that has an update.

    Args:
        mode: one of MODES. generator: on the CPU, for `random`.

    Returns:
        [m, n], infinite where a reciprocal has nothing under it.
    """
    check_mode(mode)
    if mode == "random":
        return torch.rand(matrix.weight.shape, generator=generator).to(matrix.weight.device)
    if mode == "W":
        return matrix.weight.detach().abs()
    change = matrix.scale * matrix.update(sparse=mode.endswith("S"))
    if mode.startswith("W"):
        change += matrix.weight.detach().to(change.dtype)
    return change.abs_().reciprocal_() if mode.startswith("N") else change.abs_()


def check_head_mode(mode: str) -> None:
    """Raise an OptionError for what is no score of heads."""
    if mode not in HEAD_MODES:
        raise OptionError("prune_mode", f"must be one of {', '.join(HEAD_MODES)} for heads, got {mode!r}")


def head_scores(query: Matrix, value: Matrix, num_heads: int, mode: str = "ABS") -> Tensor:
    """Score the heads of a layer: the sum over a head's rows of |Bq Aq + Sq| + |Bv Av + Sv|.

    WABS adds |Wq| + |Wv|. As published, the scale s has no part in it.

    Args:
        query, value: the layer's two matrices. num_heads: H; rows lie head by head.

    Returns:
        [H] float64; zeros of no heads for H = 0.

    Raises:
        OptionError: the mode is not one for heads.
        ValueError: the rows are not those of H heads.
    """
    check_head_mode(mode)
    if any(len(part.weight) % max(num_heads, 1) for part in (query, value)):
        raise ValueError(f"{len(query.weight)} rows are not those of {num_heads} heads")
    scores = torch.zeros(num_heads, dtype=torch.float64, device=query.weight.device)
    for part in (query, value) if num_heads else ():
        total = part.update().abs().double()
        if mode == "WABS":
            total += part.weight.detach().abs()
        scores += total.view(num_heads, -1).sum(1)  # [m, n] -> [H, m / H * n] -> [H]
    return scores
