"""Positions in a matrix of which many rows are untouched: the touched rows, and positions among those alone.

A task sees few of a vocabulary's words. The rows of an embedding that it never reads keep a diff of 0, and
positions lie closer in what is left: with a fifth of the rows touched each costs log2(5) = 2.3 bits less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .golomb import CodedPositions, decode_positions, encode_positions, floor_bits

# Bits that an entry of its own in the index costs, about.
_OVERHEAD = 64


def encode_matrices(
    positions: Sequence[np.ndarray], shapes: Sequence[tuple[int, ...]]
) -> tuple[CodedPositions, list[tuple[int, ...]]]:
    """Code the positions of tensors of these shapes, each by its rows where that is shorter.

    Returns:
        The code, and for each tensor what `decode_matrices` has to know of it beside its shape: (number of
        positions, divisor) or (number of positions, divisor, number of touched rows, their divisor).
    """
    arrays, sizes = [], []
    for flat, shape in zip(positions, shapes):
        parts = split_rows(flat, shape)
        arrays += [flat] if parts is None else list(parts)
        sizes.append(1 if parts is None else 2)
    coded = encode_positions(arrays)
    described = iter(zip(coded.counts, coded.divisors))
    return coded, [tuple(fact for _ in range(size) for fact in next(described)) for size in sizes]


def decode_matrices(
    streams: Sequence[np.ndarray], shapes: Sequence[tuple[int, ...]], facts: Sequence[Sequence[int]]
) -> list[np.ndarray]:
    """Undo `encode_matrices`; streams: unary, fixed, extra.

    Raises:
        ValueError: the streams do not fit, or a position is outside its tensor or the touched rows.
    """
    flat = [fact for entry in facts for fact in entry]
    if any(len(entry) not in (2, 4) for entry in facts):
        raise ValueError("its list of changed tensors has entries of a wrong length")
    sizes: list[int] = []
    for entry, shape in zip(facts, shapes):
        if len(entry) == 2:
            sizes.append(math.prod(shape))
            continue
        if len(shape) < 2 or not 0 < entry[2] <= shape[0]:
            raise ValueError(f"it has {entry[2]} touched rows in a tensor {list(shape)}")
        sizes += [entry[2] * math.prod(shape[1:]), shape[0]]
    arrays = iter(decode_positions(CodedPositions(tuple(flat[::2]), tuple(flat[1::2]), *streams), sizes))
    return [
        next(arrays) if len(entry) == 2 else join_rows(next(arrays), next(arrays), shape)
        for entry, shape in zip(facts, shapes)
    ]


def split_rows(positions: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (positions [n] among the touched rows, touched rows [R]); None where that is not shorter."""
    if len(shape) < 2 or not len(positions):
        return None
    height, width = shape[0], int(np.prod(shape[1:]))
    row, column = np.divmod(positions, width)
    rows, place = np.unique(row, return_inverse=True)
    count = len(positions)
    whole = floor_bits(count, height * width)
    if floor_bits(count, len(rows) * width) + floor_bits(len(rows), height) + _OVERHEAD > whole:
        return None
    return place * width + column, rows


def join_rows(positions: np.ndarray, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Undo `split_rows`.

    Raises:
        ValueError: a position is outside the touched rows, or a row has none.
    """
    width = int(np.prod(shape[1:]))
    place, column = np.divmod(positions, width)
    if len(place) and place[-1] >= len(rows):
        raise ValueError(f"position {positions[-1]} is outside the {len(rows)} touched rows")
    if (np.diff(place, prepend=-1, append=len(rows)) > 1).any():
        raise ValueError("a touched row has no position")
    return rows[place] * width + column
