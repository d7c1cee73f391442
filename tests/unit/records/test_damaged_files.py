"""Of every kind of file that we write: with flipped bits and cuts it reads as what was written, or is
refused by name.
"""

from __future__ import annotations

import importlib.util
import random
from typing import Any

import numpy as np
import pytest
import torch
from file_kinds import KINDS, FileKind

FLIPS, CUTS = 40, 10  # of each file


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        as_bytes = lambda tensor: tensor.contiguous().reshape(-1).view(torch.uint8)  # noqa: E731
        return (
            isinstance(other, torch.Tensor)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and torch.equal(as_bytes(one), as_bytes(other))
        )
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and list(one) == list(other)
            and all(same(one[key], other[key]) for key in one)
        )
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or (one != one and other != other))


def damaged(content: bytes, rng: random.Random):
    for _ in range(FLIPS):
        place = rng.randrange(len(content))
        yield (
            f"bit flipped at {place}",
            content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :],
        )
    for _ in range(CUTS):
        end = rng.randrange(len(content))
        yield f"cut at {end}", content[:end]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_damage_is_refused_or_changes_nothing(kind: FileKind, tmp_path):
    if kind.needs and importlib.util.find_spec(kind.needs) is None:
        pytest.skip(f"needs {kind.needs}")
    paths, whole = kind.make(tmp_path), kind.read(tmp_path)
    assert same(kind.read(tmp_path), whole)
    rng, refused = random.Random(kind.name), 0
    for path in paths:
        content = path.read_bytes()
        for what, variant in damaged(content, rng):
            path.write_bytes(variant)
            try:
                assert same(kind.read(tmp_path), whole), f"{path.name}, {what}: something else was read"
            except (ValueError, OSError) as error:
                refused += 1
                assert path.name in str(error) or path.parent.name in str(error), f"{what}: {error}"
        path.write_bytes(content)
    assert refused > len(paths) * (FLIPS + CUTS) / 2 and same(kind.read(tmp_path), whole)
