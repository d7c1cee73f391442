"""Golomb-coded positions: exact round trips, and lengths against a bit-by-bit coder and the entropy."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from dsp_plugin.diffs.packs.golomb import (
    CodedPositions,
    best_divisor,
    decode_positions,
    encode_positions,
    floor_bits,
)


def random_positions(size: int, density: float, seed: int) -> np.ndarray:
    return np.flatnonzero(np.random.default_rng(seed).random(size) < density)


def bits_one_by_one(gaps: np.ndarray, divisor: int) -> int:
    """Golomb's code as textbooks have it."""
    total = 0
    for gap in gaps.tolist():
        quotient, remainder = divmod(gap, divisor)
        longest = math.ceil(math.log2(divisor)) if divisor > 1 else 0
        shorter = remainder < 2**longest - divisor
        total += quotient + 1 + longest - shorter
    return total


@pytest.mark.parametrize("seed", range(20))
def test_random_positions_come_back(seed):
    rng = np.random.default_rng(seed)
    tensors = [
        random_positions(
            int(rng.integers(1, 3000)), float(rng.choice([0.001, 0.01, 0.2, 0.7, 1.0])), seed + number
        )
        for number in range(6)
    ]
    tensors.append(np.zeros(0, np.int64))
    decoded = decode_positions(encode_positions(tensors), [3000] * len(tensors))
    assert len(decoded) == len(tensors)
    for before, after in zip(tensors, decoded):
        assert after.dtype == np.int64
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    "positions", [[0], [7], [0, 1, 2, 3], [2**40], [0, 2**40], [5, 6, 2**31, 2**31 + 1], list(range(100))]
)
def test_positions_at_the_edges(positions):
    (decoded,) = decode_positions(encode_positions([np.array(positions, np.int64)]), [positions[-1] + 1])
    assert decoded.tolist() == positions


def test_no_tensors():
    assert decode_positions(encode_positions([]), []) == []


@pytest.mark.parametrize("density", [0.001, 0.03, 0.4])
def test_length_is_that_of_a_coder_that_goes_bit_by_bit(density):
    positions = random_positions(20000, density, 3)
    coded = encode_positions([positions])
    bits = bits_one_by_one(np.diff(positions, prepend=-1) - 1, coded.divisors[0])
    # three streams, each filled up to whole bytes
    assert bits <= 8 * coded.num_bytes < bits + 3 * 8


@pytest.mark.parametrize("density", [0.001, 0.0038, 0.005, 0.02])
def test_within_three_hundredths_of_a_bit_of_the_entropy(density):
    positions = random_positions(4_000_000, density, 1)
    used = 8 * encode_positions([positions]).num_bytes / len(positions)
    entropy = -(density * math.log2(density) + (1 - density) * math.log2(1 - density)) / density
    assert used < entropy + 0.03 + 0.02, "0.02 for chance and the last bytes"


def test_the_divisor_is_the_best_of_all_for_geometric_gaps():
    gaps = np.diff(random_positions(200_000, 0.01, 2), prepend=-1) - 1
    costs = {divisor: bits_one_by_one(gaps, divisor) for divisor in range(1, 200, 3)}
    assert bits_one_by_one(gaps, best_divisor(gaps)) <= min(costs.values()) * 1.002


def test_clustered_positions_take_less_than_random_ones():
    rows = np.random.default_rng(0).choice(1000, 10, replace=False)
    positions = np.sort((rows[:, None] * 500 + np.arange(500)[None]).reshape(-1))
    assert 8 * encode_positions([positions]).num_bytes < floor_bits(len(positions), 500_000)


@pytest.mark.parametrize("count, size", [(0, 5), (2, 7), (7, 7), (3, 9)])
def test_floor_counts_the_choices(count, size):
    assert floor_bits(count, size) == pytest.approx(
        math.log2(len(list(combinations(range(size), count)))), abs=1e-9
    )


def test_floor_refuses_more_positions_than_weights():
    with pytest.raises(ValueError, match="6 positions"):
        floor_bits(6, 5)


SIZES = (50000, 900)
CODED = encode_positions([random_positions(SIZES[0], 0.03, 4), random_positions(SIZES[1], 0.3, 5)])


@pytest.mark.parametrize(
    "broken",
    [
        replace(CODED, counts=(CODED.counts[0] + 1, CODED.counts[1])),
        replace(CODED, counts=(-1, CODED.counts[1])),
        replace(CODED, divisors=(0, CODED.divisors[1])),
        replace(CODED, divisors=(CODED.divisors[0], 2**70)),
        replace(CODED, unary=CODED.unary[:-1]),
        replace(CODED, fixed=CODED.fixed[:-1]),
        replace(CODED, fixed=np.append(CODED.fixed, np.uint8(1))),
        replace(CODED, extra=CODED.extra[:-1]),
        replace(CODED, extra=np.append(CODED.extra, np.uint8(0))),
    ],
)
def test_streams_that_do_not_fit_are_refused(broken: CodedPositions):
    with pytest.raises(ValueError):
        decode_positions(broken, SIZES)


def test_positions_outside_their_tensor_are_refused():
    positions = random_positions(900, 0.3, 5)
    for size in (int(positions[-1]), len(positions) - 1, 0):
        with pytest.raises(ValueError):
            decode_positions(encode_positions([positions]), [size])


def test_gaps_that_wrap_round_64_bits_are_refused():
    """Each gap is inside the tensor, their sum is 2 ** 64 and what follows."""
    size, count = 2**48, 2**16 + 5
    ones = np.packbits(np.tile(np.array([0, 1], np.uint8), count), bitorder="little")  # quotient 1 each
    coded = CodedPositions(
        (count,), (size,), ones, np.zeros((count * 48 + 7) // 8, np.uint8), np.zeros(0, np.uint8)
    )
    with pytest.raises(ValueError, match="leave a tensor|more bits"):
        decode_positions(coded, [size])


@pytest.mark.parametrize("seed", range(40))
def test_damaged_streams_are_refused_or_positions_in_their_tensors(seed):
    chance = random.Random(seed)
    streams = {name: getattr(CODED, name).copy() for name in ("unary", "fixed", "extra")}
    for _ in range(chance.choice([1, 2, 50])):
        stream = streams[chance.choice(sorted(streams))]
        stream[chance.randrange(len(stream))] ^= 1 << chance.randrange(8)
    try:
        decoded = decode_positions(replace(CODED, **streams), SIZES)
    except ValueError:
        return
    for positions, size, count in zip(decoded, SIZES, CODED.counts):
        assert (
            len(positions) == count
            and 0 <= positions[0]
            and positions[-1] < size
            and (np.diff(positions) > 0).all()
        )
