"""The `HeadGates` protocol: what every way of choosing heads offers to the hosts.

Notation: N heads in all; gates multiply the heads' context vectors, 1 = untouched, 0 = removed.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class HeadGates(Protocol):
    """Gates of N heads; an implementation is an `nn.Module`, so that its state is saved with the model."""

    num_heads: int
    scores: Tensor
    """[N], larger is better: what heads are ranked by where another number of heads is asked for."""

    def sample(self) -> Tensor:
        """Draw gates [N] for one forward pass of training, differentiable in the method's own parameters."""

    def keep(self) -> Tensor:
        """Return the deployed heads: bool [N], deterministic, True = kept."""

    def penalty(self) -> Tensor:
        """Return what the method adds to the loss (a scalar, 0 where it adds nothing)."""

    def set_num_updates(self, num_updates: int) -> None:
        """Take note of the number of optimizer updates made so far; schedules are functions of it."""

    def metrics(self) -> dict[str, float | Tensor]:
        """Return figures for the log: numbers, or scalar tensors left on their device, so that none waits."""


def heads_open(gates: Tensor) -> Tensor | None:
    """Return which heads have a gate other than 0, bool [h]: a masked model shows the attention of these.

    Args:
        gates: [h], or [B, h] one row an example; None comes back where the examples of a batch differ.
    """
    found = gates.detach() != 0
    if found.dim() == 1:
        return found
    return found[0] if bool((found == found[0]).all()) else None


def for_examples(gates: Tensor, examples: int) -> Tensor:
    """Hand each example of a batch its row of gates: [M, h] -> [B, h], example b the row b mod M, in turn.

    Args:
        gates: [h], which come back as they are: all examples share them.
        examples: B.
    """
    if gates.dim() == 1 or gates.shape[0] == examples:
        return gates
    return gates[torch.arange(examples, device=gates.device) % gates.shape[0]]


class FixedGates(nn.Module):
    """A mask that does not learn: `keep` [N] bool, in training and in evaluation."""

    def __init__(self, keep: Tensor):
        super().__init__()
        self.num_heads = keep.numel()
        self.register_buffer("mask", keep.detach().clone().bool())

    def sample(self) -> Tensor:
        return self.mask.float()

    @property
    def scores(self) -> Tensor:
        return self.mask.float()

    def keep(self) -> Tensor:
        return self.mask

    def penalty(self) -> Tensor:
        return self.mask.new_zeros((), dtype=torch.float32)

    def set_num_updates(self, num_updates: int) -> None:
        pass

    def metrics(self) -> dict[str, float]:
        return {"heads_open": float(self.mask.sum())}
