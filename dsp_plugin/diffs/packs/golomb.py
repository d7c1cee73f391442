"""Sorted positions as Golomb-coded gaps, encoded and decoded by whole arrays.

The gaps between uniformly random positions of density p are geometric, and Golomb's code is the best one that
spends whole bits on each (Golomb 1966; Gallager and van Voorhis 1975): within 0.03 bits a position of the
entropy H(p) / p for small p. At p = 0.5 % that is 9.1 bits where a 16-bit gap takes 16.

A gap g is split by its tensor's divisor m into a quotient g // m, written as so many zeros and a one, and a
remainder g % m in truncated binary: floor(log2 m) bits, for the larger remainders one more. The three kinds
of bits go to streams of their own, shared by all tensors, so that nothing has to be read bit by bit:

    unary      for each position: quotient zeros, then a one
    fixed      for each tensor: floor(log2 m) bit planes of [positions] bits, the lowest first
    extra      the last bit of each remainder that is one bit longer

Bits fill bytes from the lowest up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Tried around the best divisor of a geometric distribution. Gaps of trained diffs are clustered: small ones
# abound beside a few that are very large, for which a smaller divisor is better.
_CANDIDATES = tuple(2.0 ** (quarters / 4) for quarters in (*range(-40, -8, 4), *range(-8, 5)))


@dataclass(frozen=True)
class CodedPositions:
    """The positions of several tensors, coded.

    Attributes:
        counts: number of positions of each tensor.
        divisors: m of each tensor, 1 or more.
        unary, fixed, extra: the three streams, uint8.
    """

    counts: tuple[int, ...]
    divisors: tuple[int, ...]
    unary: np.ndarray
    fixed: np.ndarray
    extra: np.ndarray

    @property
    def num_bytes(self) -> int:
        """The bytes that the streams take."""
        return self.unary.size + self.fixed.size + self.extra.size


def encode_positions(positions: Sequence[np.ndarray]) -> CodedPositions:
    """Code the positions of several tensors.

    Args:
        positions: one array [n] int64 a tensor, not negative and strictly rising.
    """
    quotients, planes, extras, divisors = [], [], [], []
    for rising in positions:
        gaps = np.diff(rising, prepend=-1) - 1
        divisor = best_divisor(gaps)
        width, short = _split(divisor)
        quotient, remainder = np.divmod(gaps, divisor)
        longer = remainder >= short
        shifted = remainder[longer] + short
        remainder[longer] = shifted >> 1
        quotients.append(quotient)
        planes.append(_bit_planes(remainder, width))
        extras.append((shifted & 1).astype(np.uint8))
        divisors.append(divisor)
    unary = np.zeros(0, np.uint8)
    if quotients:
        ends = np.cumsum(np.concatenate(quotients) + 1)  # one past the place of each position's one
        unary = np.zeros(int(ends[-1]) if ends.size else 0, np.uint8)
        unary[ends - 1] = 1
    return CodedPositions(
        tuple(len(rising) for rising in positions),
        tuple(divisors),
        np.packbits(unary, bitorder="little"),
        _pack(planes),
        _pack(extras),
    )


def decode_positions(coded: CodedPositions, sizes: Sequence[int]) -> list[np.ndarray]:
    """Undo `encode_positions`: one array [n] int64 a tensor, strictly rising and inside it.

    Work and memory are bounded by the number of positions, of which there are no more than elements, and by
    the bytes that their code can take at most.

    Args:
        sizes: number of elements of each tensor, below 2 ** 62.

    Raises:
        ValueError: the streams are too short or too long for the counts, a count or divisor is larger than
            its tensor or not positive, or a position is outside its tensor.
    """
    if any(count < 0 for count in coded.counts) or any(divisor < 1 for divisor in coded.divisors):
        raise ValueError("its counts or divisors are not positive")
    if any(count > size for count, size in zip(coded.counts, sizes)):
        raise ValueError("it has more positions than elements")
    # of few gaps they may be larger
    if any(divisor > 4 * size for divisor, size in zip(coded.divisors, sizes) if divisor > 1):
        raise ValueError("its divisors are larger than its tensors")
    quotients_at_most = sum(size // divisor for size, divisor in zip(sizes, coded.divisors))
    if 8 * (coded.unary.size - 1) > sum(coded.counts) + quotients_at_most:
        raise ValueError("it has more bits than positions")
    splits = [_split(divisor) for divisor in coded.divisors]
    total = sum(coded.counts)
    ones = np.flatnonzero(np.unpackbits(coded.unary, bitorder="little").view(bool))  # [bits] -> [positions]
    if len(ones) != total:
        raise ValueError(f"it has {len(ones)} positions where {total} are announced")
    quotients = np.diff(ones, prepend=-1) - 1
    fixed = _unpack(coded.fixed, sum(count * width for count, (width, _) in zip(coded.counts, splits)))
    extra = np.unpackbits(coded.extra, bitorder="little")

    decoded, first, bit, extra_bit = [], 0, 0, 0
    for count, size, divisor, (width, short) in zip(coded.counts, sizes, coded.divisors, splits):
        # [width * count] -> [width, count] -> [count]
        remainder = _from_bit_planes(fixed[bit : bit + count * width].reshape(width, count))
        longer = np.flatnonzero(remainder >= short)
        if len(longer):
            last = extra[extra_bit : extra_bit + len(longer)]
            if len(last) < len(longer):
                raise ValueError("its positions end early")
            remainder[longer] = 2 * remainder[longer] + last - short
        quotient = quotients[first : first + count]
        gaps = quotient * divisor
        gaps += remainder
        gaps += 1
        rising = np.cumsum(gaps) - 1
        # no gap wraps round 64 bits where the largest fits; a sum that did would be negative in between
        if count and (int(quotient.max()) * divisor > size or rising.min() < 0 or rising.max() >= size):
            raise ValueError(f"its positions leave a tensor of {size} elements")
        decoded.append(rising)
        first, bit, extra_bit = first + count, bit + count * width, extra_bit + len(longer)
    if extra.size - extra_bit >= 8:
        raise ValueError("it has more bits than positions")
    return decoded


def best_divisor(gaps: np.ndarray) -> int:
    """Return the divisor, of a few around a geometric distribution's best, that codes these gaps shortest."""
    if not len(gaps):
        return 1
    # Gallager and van Voorhis: m = ceil(log(2 - p) / -log(1 - p)), p = 1 / (mean gap + 1)
    p = 1 / (float(gaps.mean()) + 1)
    start = 1.0 if p == 1 else max(1.0, math.log(2 - p) / -math.log1p(-p))
    tried = sorted({max(1, math.ceil(start * factor)) for factor in _CANDIDATES})
    return min(tried, key=lambda divisor: (_cost(gaps, divisor), divisor))


def floor_bits(count: int, size: int) -> float:
    """Return log2 of the ways to choose `count` of `size` positions: no code takes fewer bits on average."""
    if not 0 <= count <= size:
        raise ValueError(f"{count} positions cannot be chosen from {size}")
    return (math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)) / math.log(2)


def _cost(gaps: np.ndarray, divisor: int) -> int:
    """Return the bits that the gaps take."""
    width, short = _split(divisor)
    quotient, remainder = np.divmod(gaps, divisor)
    return int(quotient.sum()) + len(gaps) * (1 + width) + int((remainder >= short).sum())


def _split(divisor: int) -> tuple[int, int]:
    """Return (bits, threshold) of truncated binary: remainders take so many bits, from there on one more."""
    width = divisor.bit_length() - 1
    return width, 2 ** (width + 1) - divisor


def _bit_planes(numbers: np.ndarray, width: int) -> np.ndarray:
    """Split numbers [n] into their bits: [width, n] of 0 and 1, the lowest bit first."""
    as_bytes = numbers.astype("<u8").view(np.uint8).reshape(-1, 8).T  # [n] -> [8 n] -> [n, 8] -> [8, n]
    return np.unpackbits(as_bytes, axis=0, bitorder="little", count=width)


def _from_bit_planes(planes: np.ndarray) -> np.ndarray:
    """Put bits [width, n] together to numbers [n] int64."""
    numbers = np.zeros(planes.shape[1], np.int64)
    for place, byte in enumerate(np.packbits(planes, axis=0, bitorder="little")):
        numbers |= byte.astype(np.int64) << (8 * place)
    return numbers


def _pack(bits: Sequence[np.ndarray]) -> np.ndarray:
    # each of any shape -> [its bits], together [bits]
    whole = np.concatenate([part.reshape(-1) for part in bits]) if bits else np.zeros(0, np.uint8)
    return np.packbits(whole, bitorder="little")


def _unpack(stream: np.ndarray, count: int) -> np.ndarray:
    if stream.size != (count + 7) // 8:
        raise ValueError(f"it has {stream.size} bytes of remainders where {(count + 7) // 8} are needed")
    return np.unpackbits(stream, bitorder="little", count=count)
