"""Importance of heads (Michel, Levy and Neubig, NeurIPS 2019): how fast the loss changes with their gates.

    I_h = 1 / tokens * sum over examples x of |dL(x) / d xi_h|,   xi_h the gate of head h, 1 where it is open

L(x) is the loss of one example, summed over its tokens. The absolute value is taken example by example,
because gradients of different signs would else cancel.

Notation: N heads in all, B examples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..head_map import HeadMap

EPS = 1e-20
Inputs = TypeVar("Inputs")


class HeadImportance:
    """Sums up |gradient| over a data set.

    Args:
        num_heads: N.
        per_batch: take the absolute value of a whole batch's gradient, as the published BERT program does:
            faster where a host has one gate for all examples, and noisier, because examples cancel.
    """

    def __init__(self, num_heads: int, per_batch: bool = False):
        self.per_batch = per_batch
        self.total = torch.zeros(num_heads, dtype=torch.float64)
        self.tokens = 0
        self.examples = 0

    def add(self, gradients: Tensor, tokens: int) -> None:
        """Count one batch.

        Args:
            gradients: [B, N], row x the gradient of example x's loss with respect to its own gates.
            tokens: how many tokens the losses were summed over.

        Raises:
            ValueError: another shape, or a gradient that is not finite.
        """
        if gradients.dim() != 2 or gradients.shape[1] != self.total.numel():
            heads = self.total.numel()
            raise ValueError(f"expected gradients [examples, {heads}], got {list(gradients.shape)}")
        values = gradients.detach().double()
        values = values.sum(0).abs() if self.per_batch else values.abs().sum(0)
        if not bool(torch.isfinite(values).all()):
            raise ValueError(
                "the gradient of a head's gate is not finite: the model has diverged, or its precision is "
                "too low"
            )
        self.total += values.to(self.total.device)
        self.tokens += int(tokens)
        self.examples += gradients.shape[0]

    def value(self) -> Tensor:
        """Return the importance [N] float64, in loss a token.

        Raises:
            ValueError: nothing was counted.
        """
        if not self.tokens:
            raise ValueError("no example was counted, so no head has an importance")
        return self.total / self.tokens

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted so far; states of disjoint parts of the data add up."""
        return {"total": self.total.clone(), "tokens": self.tokens, "examples": self.examples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`.

        Raises:
            ValueError: of another number of heads.
        """
        total = torch.as_tensor(state["total"], dtype=torch.float64)
        if total.shape != self.total.shape:
            raise ValueError(f"importance of {total.numel()} heads cannot go on for {self.total.numel()}")
        self.total, self.tokens, self.examples = total.clone(), int(state["tokens"]), int(state["examples"])

    def sum_over_processes(self, all_reduce: Callable[[Tensor], Any], device: torch.device) -> None:
        """Add up what all processes have counted, so that each has it all.

        Args:
            all_reduce: sums a float64 tensor over the processes, in place.
            device: where that tensor must be.
        """
        counts = torch.tensor([self.tokens, self.examples], dtype=torch.float64)
        sums = torch.cat([self.total.cpu(), counts]).to(device)
        all_reduce(sums)
        *total, tokens, examples = sums.tolist()
        self.load_state_dict({"total": total, "tokens": tokens, "examples": examples})


def measure_importance(
    num_heads: int,
    batches: Iterable[tuple[Inputs, int]],
    losses_of: Callable[[Inputs], tuple[Tensor, int]],
    override: Callable[[Tensor], AbstractContextManager[Any]],
    keep: Tensor | None = None,
    per_batch: bool = False,
    device: torch.device | str = "cpu",
) -> HeadImportance:
    """Sum up the importance of N heads over batches: one gate a head and example, and its gradient.

    Args:
        batches: (what the host runs, its number of examples B).
        losses_of: the losses of a batch's examples [B], each summed over its tokens, and the tokens.
        override: puts gates [B, N] in the place of the model's own for a while (`Switchboard.override`).
        keep: bool [N], heads that are there (None: all). Removed ones have a gate of 0, and a gradient.
        per_batch: see `HeadImportance`.

    Raises:
        ValueError: see `HeadImportance`.
    """
    found = HeadImportance(num_heads, per_batch)
    for gradients, tokens in gate_gradients(num_heads, batches, losses_of, override, keep, device):
        found.add(gradients, tokens)
    return found


def gate_gradients(
    num_heads: int,
    batches: Iterable[tuple[Inputs, int]],
    losses_of: Callable[[Inputs], tuple[Tensor, int]],
    override: Callable[[Tensor], AbstractContextManager[Any]],
    keep: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Tensor, int]]:
    """Yield the gradients of each batch's losses with respect to its examples' own gates, [B, N]; its tokens.

    Arguments are those of `measure_importance`.
    """
    mask = torch.ones(num_heads) if keep is None else keep.float()
    for inputs, count in batches:
        gates = mask.to(device).expand(count, -1).clone().requires_grad_()  # [B, N]
        with torch.enable_grad(), override(gates):
            losses, tokens = losses_of(inputs)
            (gradients,) = torch.autograd.grad(losses.sum(), gates)
        yield gradients, tokens


def normalised(
    importance: Tensor,
    head_map: HeadMap,
    keep: Tensor | None = None,
    by_block: bool = True,
    overall: bool = True,
) -> Tensor:
    """Make importance comparable between blocks.

    First every block is divided by the L2 norm over its heads (+ 1e-20), then all heads are moved and scaled
    to 0..1. Heads that are gone count in neither, and get 0.

    Args:
        importance: [N], at least 0.
        keep: bool [N], heads that are still there; None means all.
        by_block, overall: whether to do the first and the second step.

    Returns:
        [N] float64

    Raises:
        ValueError: another length.
    """
    values = importance.double()
    keep = torch.ones_like(values, dtype=torch.bool) if keep is None else keep.to(values.device)
    values = values * keep
    if by_block:
        values = torch.cat([part / (part.norm() + EPS) for part in head_map.split(values)])
    if overall and bool(keep.any()):
        low, high = values[keep].min(), values[keep].max()
        values = (values - low) / (high - low) if high > low else torch.zeros_like(values)
    return values * keep
