"""Where the sparse part S2 of an update may have entries, worked out from a frozen matrix before training.

Notation: W the frozen matrix [m, n]; L + S its split into a part of low rank and a sparse rest; L = U V.

    grebsmo   the largest entries of what a growing low rank leaves of W (Zhou & Tao 2013; Chen et al. 2023)
    omp       the largest entries of W
    rp        random ones

A support is a list of positions, as many as were asked for, whatever W is: never a mask of W's shape.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..options.errors import OptionError
from .ranking import largest

ROUNDS = 100
HALF_ROUNDS = 2
MORE_RANK = 5  # rows that join V after a round
SMALL = 0.01  # what is smaller is no entry of S


def find_support(weight: Tensor, num_sparse: int, method: str = "grebsmo", seed: int = 0) -> Tensor:
    """Find the positions of the entries that a matrix's sparse update has.

    Args:
        weight: W [m, n], frozen; it is looked at as it stands.
        num_sparse: number of positions, 0 to m * n.
        method: one of METHODS.
        seed: of the random numbers, drawn on the CPU by a generator of this call alone.

    Returns:
        [num_sparse] int64, rising, into the flattened W.

    Raises:
        OptionError: an unknown method, or more positions than W has.
        ValueError: W is no matrix, or holds values that are not finite.
    """
    check_support(tuple(weight.shape), num_sparse, method)
    weight = weight.detach()
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("the frozen matrix holds values that are not finite: no support can be found in it")
    generator = torch.Generator().manual_seed(seed)
    return largest(METHODS[method](weight, generator), num_sparse)


def check_support(shape: tuple[int, ...], num_sparse: int, method: str) -> None:
    """Raise what `find_support` does for a matrix of this shape, before anything is worked out."""
    if method not in METHODS:
        raise OptionError("sparse_method", f"must be one of {', '.join(METHODS)}, got {method!r}")
    if len(shape) != 2:
        raise ValueError(f"a support is found in a matrix, not in a tensor of shape {list(shape)}")
    if isinstance(num_sparse, bool) or not isinstance(num_sparse, int) or num_sparse < 0:
        raise OptionError("num_sparse", f"must be a whole number, 0 or more, got {num_sparse!r}")
    if num_sparse > shape[0] * shape[1]:
        entries = f"a matrix of {shape[0]} x {shape[1]} has {shape[0] * shape[1]}"
        raise OptionError("num_sparse", f"is {num_sparse} entries a matrix, and {entries}")


def largest_rank(rows: int, columns: int) -> int:
    """Return how far the rank of L grows: two thirds of the smaller side.

    The steps as published end at rank 1 + 5 · 99 = 496, which takes in all of a matrix of that width and
    leaves S without entries. From width 744 on the limit changes nothing.
    """
    return min(1 + MORE_RANK * (ROUNDS - 1), 2 * min(rows, columns) // 3)


def residual(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Return what is left of W beside its part of low rank after all rounds, W - U V [m, n] float64.

    S is this with the entries below SMALL set to 0: the largest entries of S are the largest of this, which
    also ranks where S has fewer entries than are asked for, as in a matrix of tiny values. In double
    precision, because a hundred rounds make much of the rounding of single precision.
    """
    weight = weight.double()
    most = largest_rank(*weight.shape)
    right = torch.randn(1, weight.shape[1], generator=generator, dtype=torch.float64)
    right = right.to(weight.device)[:most]  # V [r, n]
    rest = weight
    for _ in range(ROUNDS if most else 0):
        sparse = torch.zeros_like(weight)
        for _ in range(HALF_ROUNDS):
            left = torch.linalg.qr((weight - sparse) @ right.T).Q  # U [m, r]
            right = left.T @ (weight - sparse)
            rest = weight - left @ right
            sparse = torch.where(rest.abs() < SMALL, 0.0, rest)
        more = min(MORE_RANK, most - len(right))
        if more > 0:
            error = rest - sparse
            # the first rows of R of a QR of all of E need its first columns alone
            basis = torch.linalg.qr(error[:, :MORE_RANK]).Q  # [m, 5]
            right = torch.cat([right, (basis.T @ error)[:more].triu()])
    return rest


def _by_residual(weight: Tensor, generator: torch.Generator) -> Tensor:
    return residual(weight, generator).abs()


def _by_magnitude(weight: Tensor, generator: torch.Generator) -> Tensor:
    return weight.abs()


def _by_chance(weight: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(weight.shape, generator=generator, dtype=torch.float64)


METHODS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "grebsmo": _by_residual,
    "omp": _by_magnitude,
    "rp": _by_chance,
}
