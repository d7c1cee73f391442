"""Uniform noise as a function of (seed, step, position), so that it is never stored and never out of step.

A counter-based hash: each position's number depends on nothing but its own position and two 32-bit keys made
of seed and step. So eager, compiled, CPU and GPU draw the same numbers, a resumed run draws what the
uninterrupted one would have drawn, and data-parallel ranks agree without talking. The operations are 32-bit
integer multiplications, exclusive-ors and shifts (the finalizers of C. Wellons' `lowbias32` and of
MurmurHash3), and fuse with what uses them.

Positions count modulo 2^32: in a model with more parameters, positions 2^32 apart share their noise.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from .concrete import NOISE_HIGH, NOISE_LOW


def _signed(value: int) -> int:
    """Return the int32 with the bits of an unsigned 32-bit `value`."""
    return value - (1 << 32) if value >= 1 << 31 else value


Keys = tuple[int, int]  # of one step, see `step_keys`
# Odd multipliers; as signed numbers, because torch's integers of 32 bits are signed.
MULTIPLIERS = tuple(_signed(value) for value in (0x7FEB352D, 0x846CA68B, 0x85EBCA6B))


def step_keys(seed: int, step: int) -> Keys:
    """Return two signed 32-bit keys of (seed, step), unrelated for neighbouring seeds and steps."""
    digest = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest()
    return _signed(int.from_bytes(digest[:4], "little")), _signed(int.from_bytes(digest[4:], "little"))


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift an int32 tensor right without its sign (torch's own shift keeps it)."""
    return (x >> bits) & ((1 << (32 - bits)) - 1)


def hashed(position: Tensor, first: int | Tensor, second: int | Tensor) -> Tensor:
    """Return 32 well-mixed bits a position: int32 -> int32 of the same shape. Products wrap around."""
    x = position ^ first
    x = (x ^ _shift(x, 16)) * MULTIPLIERS[0]
    x = (x ^ _shift(x, 15)) + second
    x = x * MULTIPLIERS[1]
    x = (x ^ _shift(x, 16)) * MULTIPLIERS[2]
    return x ^ _shift(x, 15)


def uniform(start: int, count: int, keys: Keys, device: torch.device | str = "cpu") -> Tensor:
    """Return the noise of positions from `start` on: [count] float32 in [1e-4, 1 - 1e-4], of 24 bits."""
    # int64, then wrapped: `start` may lie beyond 2^31
    position = torch.arange(start, start + count, device=device).to(torch.int32)
    bits = _shift(hashed(position, *keys), 8)
    return (bits.float() * 2.0**-24 + 2.0**-25).clamp(NOISE_LOW, NOISE_HIGH)
