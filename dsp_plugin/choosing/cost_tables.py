"""What blocks cost by the number of units they keep, from a few measured models.

A model is measured with all blocks of one class at c units and all others at none: what it costs beyond the
model without units is what the class costs. Blocks of one class (a kind of block, one size of units) cost the
same at the same count.

Notation: B blocks, h_b units of block b, h the most of a class, m measured counts of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..gating.head_map import AttentionBlock, HeadMap


def counts_to_measure(units: int) -> list[int]:
    """List the counts at which a block of so many units is measured: 1, 2, 4, 8 ... and all; none of 0."""
    counts = []
    count = 1
    while count < units:
        counts.append(count)
        count *= 2
    return [*counts, units] if units else []


def monotone(values: Sequence[float]) -> np.ndarray:
    """Return the rising numbers nearest to `values` [m] by least squares (pool adjacent violators).

    Noise can make more units look cheaper than fewer; they are not.
    """
    pools: list[list[float]] = []  # [mean, how many]
    for value in values:
        pools.append([float(value), 1.0])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (left, many), (right, more) = pools[-2:]
            pools[-2:] = [[(left * many + right * more) / (many + more), many + more]]
    return np.concatenate([np.full(int(many), mean) for mean, many in pools]) if pools else np.zeros(0)


def class_of_block(block: AttentionBlock) -> str:
    """Name the class of a block: its kind, and for groups of neurons their size."""
    return f"{block.kind} of {block.neurons}" if block.neurons else block.kind


@dataclass
class CostTable:
    """The costs of a model's blocks.

    Args:
        whole: cost of the model as it is.
        fixed: cost of the model without any of these units.
        measured: class -> {count: cost of the model with every block of the class at this count (or at all
            it has, if that is less) and no other units}.
    """

    whole: float
    fixed: float
    measured: dict[str, dict[int, float]] = field(default_factory=dict)

    @property
    def ceiling(self) -> float:
        """How many times cheaper the model is without any of these units; infinite where nothing is left."""
        return self.whole / self.fixed if self.fixed > 0 else float("inf")

    def costs(self, head_map: HeadMap) -> list[np.ndarray]:
        """Return what every block costs with 0, 1, ... h_b units, beyond the model without units.

        A class' costs are made rising (`monotone`), and straight between two measured counts. All are then
        scaled so that the whole model's add up to what it was measured to cost.

        Raises:
            ValueError: a class of the model was not measured, or not at its largest count.
        """
        classes: dict[str, list[AttentionBlock]] = {}
        for block in head_map.blocks:
            if block.num_heads:
                classes.setdefault(class_of_block(block), []).append(block)
        curves = {name: self._curve(name, blocks) for name, blocks in classes.items()}
        found = [
            curves[class_of_block(block)][: block.num_heads + 1] if block.num_heads else np.zeros(1)
            for block in head_map.blocks
        ]
        total, extra = sum(float(costs[-1]) for costs in found), self.whole - self.fixed
        scale = extra / total if total > 0 and extra > 0 else 1.0
        return [costs * scale for costs in found]

    def _curve(self, name: str, blocks: Sequence[AttentionBlock]) -> np.ndarray:
        """Return one block's costs at 0 .. h.

        What was measured is the sum of the class' blocks, of which one with fewer units than the count has
        all of its own: the costs at the measured counts are what is unknown, and every sum is linear in them.
        """
        points = self.measured.get(name, {})
        most = max(block.num_heads for block in blocks)
        counts = np.array([0, *sorted(count for count in points if count > 0)])
        if counts[-1] < most:
            raise ValueError(f"the costs of {name} were measured up to {counts[-1]} units, it has {most}")
        places = np.arange(most + 1)
        # [h + 1, m]: row c has the weights of the measured counts in the cost of c units (that of 0 is 0)
        weights = np.stack([np.interp(places, counts, row) for row in np.eye(len(counts))], axis=1)[:, 1:]
        rows, sums = [], []
        for count in counts[1:]:
            kept = [min(int(count), block.num_heads) for block in blocks]
            rows.append(weights[kept].sum(axis=0))
            sums.append(points[int(count)] - self.fixed)
        solved, *_ = np.linalg.lstsq(np.array(rows), np.array(sums), rcond=None)
        return weights @ np.clip(monotone(solved), 0.0, None)

    def to_dict(self) -> dict[str, Any]:
        """Return what files hold of it."""
        measured = {
            name: {str(count): cost for count, cost in points.items()}
            for name, points in self.measured.items()
        }
        return {"whole": self.whole, "fixed": self.fixed, "measured": measured}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> CostTable:
        """Make the table that `to_dict` returned.

        Raises:
            ValueError: it is none.
        """
        try:
            measured = {
                str(name): {int(count): float(cost) for count, cost in points.items()}
                for name, points in content["measured"].items()
            }
            table = cls(float(content["whole"]), float(content["fixed"]), measured)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"this is no table of costs: {error}") from None
        numbers = [
            table.whole,
            table.fixed,
            *(one for points in measured.values() for one in points.values()),
        ]
        if not np.isfinite(numbers).all() or min(numbers) < 0:
            raise ValueError("this is no table of costs: it holds numbers that are no costs")
        return table
