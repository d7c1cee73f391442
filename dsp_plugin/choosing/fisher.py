"""The diagonal Fisher information of gates, and the full matrix inside every block.

    I_uv = E over examples x of  dL(x)/dg_u * dL(x)/dg_v,   g_u the gate of unit u, 1 where it is open

L(x) is the loss of one example, and the model is in evaluation mode. I_uu is the score of a unit (Kwon et
al., NeurIPS 2022, section 4.1): the loss without it rises by about I_uu / 2.

Notation: N units in all, E examples of a batch, h units of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..gating import HeadMap
from ..gating.importance.head_importance import gate_gradients

Inputs = TypeVar("Inputs")


class FisherScores:
    """Sums up products of gradients over a data set.

    Args:
        head_map: the units, N in all.
    """

    def __init__(self, head_map: HeadMap):
        self.head_map = head_map
        self.examples = 0
        sizes = [block.num_heads for block in head_map.blocks]
        self._sums = [torch.zeros(size, size, dtype=torch.float64) for size in sizes]

    def add(self, gradients: Tensor) -> None:
        """Count one batch.

        Args:
            gradients: [E, N], row x the gradient of example x's loss with respect to its own gates.

        Raises:
            ValueError: another shape, or a gradient that is not finite.
        """
        if gradients.dim() != 2:
            raise ValueError(f"expected gradients [examples, units], got {list(gradients.shape)}")
        values = gradients.detach().to("cpu", torch.float64)
        if not bool(torch.isfinite(values).all()):
            raise ValueError(
                "the gradient of a unit's gate is not finite: the model has diverged, or its precision is "
                "too low"
            )
        for total, part in zip(self._sums, self.head_map.split(values)):
            total += part.t() @ part  # [h, E] [E, h] -> [h, h]
        self.examples += len(values)

    def blocks(self) -> list[Tensor]:
        """Return the Fisher matrix of every block, [h, h] float64.

        Raises:
            ValueError: nothing was counted.
        """
        if not self.examples:
            raise ValueError("no example was counted, so no unit has a score")
        return [total / self.examples for total in self._sums]

    def value(self) -> Tensor:
        """Return the scores of all units, their diagonal, [N] float64. Errors as `blocks`."""
        found = [block.diagonal() for block in self.blocks()]
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)


def measure_fisher(
    head_map: HeadMap,
    batches: Iterable[tuple[Inputs, int]],
    losses_of: Callable[[Inputs], tuple[Tensor, int]],
    override: Callable[[Tensor], AbstractContextManager[Any]],
    device: torch.device | str = "cpu",
) -> FisherScores:
    """Sum up the Fisher information over batches; arguments and errors as `measure_importance`."""
    found = FisherScores(head_map)
    for gradients, _ in gate_gradients(head_map.num_heads, batches, losses_of, override, None, device):
        found.add(gradients)
    return found
