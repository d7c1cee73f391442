"""Positions coded by touched rows: the same positions back, and shorter where rows are untouched."""

from __future__ import annotations

import numpy as np
import pytest

from dsp_plugin.diffs.packs.golomb import floor_bits
from dsp_plugin.diffs.packs.touched_rows import decode_matrices, encode_matrices, join_rows, split_rows


def matrix(shape, touched: float, density: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < density
    mask[rng.random(shape[0]) >= touched] = False
    return np.flatnonzero(mask)


def coded_bytes(positions, shapes) -> int:
    return encode_matrices(positions, shapes)[0].num_bytes


@pytest.mark.parametrize("seed", range(10))
def test_positions_come_back(seed):
    rng = np.random.default_rng(seed)
    shapes = [(50, 30), (1,), (400, 16), (7, 3, 5), (64,), (1000, 8)]
    touched = [float(rng.choice([0.0, 0.05, 0.5, 1.0])) for _ in shapes]
    positions = [matrix(shape, share, 0.2, seed) for shape, share in zip(shapes, touched)]
    coded, facts = encode_matrices(positions, shapes)
    assert [fact[0] for fact in facts] == [len(flat) for flat in positions]
    decoded = decode_matrices([coded.unary, coded.fixed, coded.extra], shapes, facts)
    for before, after in zip(positions, decoded):
        np.testing.assert_array_equal(before, after)


def test_a_fifth_of_the_rows_costs_what_it_must():
    """The choice of rows, then of positions in them; log2(5) = 2.3 bits a position less, but for naming
    the rows.
    """
    shape = (5000, 384)
    positions = matrix(shape, 0.2, 0.02, 1)
    rows = len(np.unique(positions // 384))
    floor = (floor_bits(len(positions), rows * 384) + floor_bits(rows, 5000)) / len(positions)
    bits = 8 * coded_bytes([positions], [shape]) / len(positions)
    assert floor < bits < floor + 0.05
    assert bits < floor_bits(len(positions), 5000 * 384) / len(positions) - 1.8


@pytest.mark.parametrize(
    "shape, touched, density", [((300, 40), 1.0, 0.3), ((12000,), 1.0, 0.01), ((300, 40), 1.0, 0.002)]
)
def test_where_rows_do_not_help_they_are_not_used(shape, touched, density):
    assert split_rows(matrix(shape, touched, density, 2), shape) is None


def test_positions_outside_the_touched_rows_are_refused():
    with pytest.raises(ValueError, match="outside the 2 touched rows"):
        join_rows(np.array([0, 25]), np.array([3, 7]), (10, 10))
    coded, facts = encode_matrices([matrix((400, 16), 0.1, 0.5, 1)], [(400, 16)])
    assert len(facts[0]) == 4
    with pytest.raises(ValueError, match="wrong length"):
        decode_matrices([coded.unary, coded.fixed, coded.extra], [(400, 16)], [facts[0][:3]])
