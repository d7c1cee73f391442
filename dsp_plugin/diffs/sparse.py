"""A sparse diff in memory: for each tensor of the base, which positions change and by how much."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class SparseDiff:
    """The changes that a task makes to its base, one entry a changed tensor.

    Attributes:
        entries: name → (positions [n] int64, values [n]). Positions are into the flattened tensor
            (row-major), strictly rising; a value is the change δ at that position, in any floating dtype. A
            tensor without changes may be absent.
        shapes: name → shape of the tensor in the base, for every name in `entries` at least. Projection lists
            every penalised tensor here, so `total` is what densities are of.

    Raises:
        ValueError: an entry has no shape, positions and values differ in number, positions are not int64, not
            strictly rising or outside their tensor, or values are not of a floating dtype.
    """

    entries: dict[str, tuple[Tensor, Tensor]]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shapes = {name: tuple(int(size) for size in shape) for name, shape in self.shapes.items()}
        for name, (positions, values) in self.entries.items():
            if name not in self.shapes:
                raise ValueError(f"the diff has positions for '{name}' but no shape")
            _check_entry(name, positions, values, math.prod(self.shapes[name]))

    def size(self, name: str) -> int:
        """Return the number of elements of the tensor `name` in the base."""
        return math.prod(self.shapes[name])

    @property
    def count(self) -> int:
        """The number of stored positions, a value of exactly 0 included."""
        return sum(positions.numel() for positions, _ in self.entries.values())

    @property
    def total(self) -> int:
        """The number of elements of all tensors in `shapes`."""
        return sum(self.size(name) for name in self.shapes)

    def density(self, total: int | None = None) -> float:
        """Return the share, 0 .. 1, of `total` elements (default: all of `shapes`) that the diff stores.

        Raises:
            ValueError: `total` is smaller than the number of stored positions, or 0.
        """
        total = self.total if total is None else total
        if total < 1 or total < self.count:
            raise ValueError(f"a diff of {self.count} positions cannot be a share of {total} elements")
        return self.count / total

    def dense(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each stored tensor's change as a full tensor of its base shape: (name, δ)."""
        for name, (positions, values) in self.entries.items():
            full = values.new_zeros(self.size(name))
            full[positions] = values
            yield name, full.view(self.shapes[name])  # [elements] -> the base's shape


def _check_entry(name: str, positions: Tensor, values: Tensor, size: int) -> None:
    if positions.dtype != torch.int64 or positions.dim() != 1:
        given = f"{positions.dtype} {list(positions.shape)}"
        raise ValueError(f"'{name}': positions must be int64 [n], not {given}")
    if not values.is_floating_point() or values.shape != positions.shape:
        given = f"{values.dtype} {list(values.shape)}"
        raise ValueError(f"'{name}': values must be floating [{positions.numel()}], not {given}")
    if positions.numel() == 0:
        return
    if int(positions[0]) < 0 or int(positions[-1]) >= size:
        raise ValueError(
            f"'{name}': positions {int(positions[0])}..{int(positions[-1])} leave a tensor of {size} elements"
        )
    if bool((positions[1:] <= positions[:-1]).any()):
        raise ValueError(f"'{name}': positions must rise strictly")
