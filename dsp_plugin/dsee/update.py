"""The masked update: s·B(A x) + s·S2 x added to what a frozen matrix puts out, as one operation.

Notation: T tokens, n features in, m out, r the rank, N entries of S2; s = alpha / r.

S2 is N rows, N columns and N values. Its product gathers N columns of x and adds them to N columns of the
output; no tensor of the matrix's shape is made, forward or backward. On a CPU that was faster than torch's
sparse product, and one operation for A, B and S2 saves the passes over [T, m] and [T, n] that autograd would
take to add three parts up.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..options.errors import OptionError
from .artefact import Update

SPREAD = 0.02  # standard deviation of A before training


def add_update(
    output: Tensor,
    x: Tensor,
    down: Tensor,
    up: Tensor,
    rows: Tensor,
    columns: Tensor,
    values: Tensor,
    scale: float,
) -> Tensor:
    """Add s·B(A x) + s·S2 x to the output of a frozen matrix.

    Args:
        output: [..., m]. x: [..., n], what the matrix was given.
        down: A [r, n]. up: B [m, r].
        rows, columns, values: S2, [N] each, the first two int64.
        scale: s.

    Returns:
        the sum, a new tensor, with gradients to `output`, `x`, A, B and the values. In place it would cost
        one copy less, and torch.compile then gets the gradients of what was before wrong.
    """
    return _Update.apply(output, x, down, up, rows, columns, values, scale)


class _Update(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,
        x: Tensor,
        down: Tensor,
        up: Tensor,
        rows: Tensor,
        columns: Tensor,
        values: Tensor,
        scale: float,
    ) -> Tensor:
        dtype = output.dtype
        tokens = x.reshape(-1, x.shape[-1]).to(dtype)  # [..., n] -> [T, n]
        result = output.clone(memory_format=torch.contiguous_format)
        added = result.view(-1, output.shape[-1])  # [..., m] -> [T, m]
        inner = tokens @ down.T.to(dtype)  # [T, n] @ [n, r] -> [T, r]
        added.addmm_(inner, up.T.to(dtype), alpha=scale)  # [T, r] @ [r, m]
        if len(values):
            picked = tokens.index_select(1, columns)  # [T, N]
            added.index_add_(1, rows, picked * (scale * values.to(dtype)))
        _, _, to_down, to_up, _, _, to_values, _ = ctx.needs_input_grad
        # what only the gradients of frozen parts would need is not kept
        kept_x, kept_inner = x if to_down or to_values else None, inner if to_up else None
        ctx.save_for_backward(kept_x, down, up, rows, columns, values, kept_inner)
        ctx.scale, ctx.shape, ctx.dtype = scale, x.shape, x.dtype
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, down, up, rows, columns, values, inner = ctx.saved_tensors
        _, to_x, to_down, to_up, _, _, to_values, _ = ctx.needs_input_grad
        dtype, scale = gradient.dtype, ctx.scale
        outer = gradient.reshape(-1, gradient.shape[-1])  # [..., m] -> [T, m]
        tokens = None if x is None else x.reshape(-1, x.shape[-1]).to(dtype)  # [..., n] -> [T, n]
        grad_x = grad_down = grad_up = grad_values = None
        back = scale * (outer @ up.to(dtype)) if to_x or to_down else None  # [T, m] @ [m, r] -> [T, r]
        if to_up:
            grad_up = scale * (outer.T @ inner)  # [m, T] @ [T, r] -> [m, r]
        if to_down:
            grad_down = back.T @ tokens  # [r, T] @ [T, n] -> [r, n]
        if to_x:
            grad_x = back @ down.to(dtype)  # [T, r] @ [r, n] -> [T, n]
        if len(values) and (to_x or to_values):
            picked = outer.index_select(1, rows)  # [T, N]
            if to_values:
                grad_values = scale * (picked * tokens.index_select(1, columns)).sum(0)
            if to_x:
                grad_x.index_add_(1, columns, picked * (scale * values.to(dtype)))
        elif to_values:
            grad_values = torch.zeros_like(values)
        return (
            gradient,
            None if grad_x is None else grad_x.view(ctx.shape).to(ctx.dtype),
            None if grad_down is None else grad_down.to(down.dtype),
            None if grad_up is None else grad_up.to(up.dtype),
            None,
            None,
            None if grad_values is None else grad_values.to(values.dtype),
            None,
        )


class LowRankSparse(nn.Module):
    """The update of one matrix: A, B and S2, for hosts without PEFT (fairseq).

    A is drawn from N(0, 0.02²), B and S2 are 0: before training the update changes nothing.

    Args:
        shape: [m, n] of the frozen matrix. rank: r. alpha: s is alpha / r.
        positions: of S2 in the flattened matrix, [N] int64, rising; None for none.
        generator: for A, on the CPU; None for torch's own.

    Raises:
        OptionError: the rank is no whole number from 1 to the smaller side of the matrix, or alpha is none.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        rank: int,
        alpha: float,
        positions: Tensor | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        check_rank(shape, rank, alpha)
        outputs, inputs = shape
        positions = torch.zeros(0, dtype=torch.int64) if positions is None else positions
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.empty(rank, inputs).normal_(0.0, SPREAD, generator=generator))
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        self.values = nn.Parameter(torch.zeros(len(positions)))
        self.register_buffer("rows", positions // inputs)
        self.register_buffer("columns", positions % inputs)

    @classmethod
    def of(cls, update: Update) -> LowRankSparse:
        """Return the module of an update as it stands, of a matrix that was cut below its rank, too."""
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        inputs = max(update.down.shape[1], 1)
        module.scale = update.scale
        module.down = nn.Parameter(update.down.clone())
        module.up = nn.Parameter(update.up.clone())
        module.values = nn.Parameter(update.values.clone())
        module.register_buffer("rows", update.positions // inputs)
        module.register_buffer("columns", update.positions % inputs)
        return module

    def as_update(self) -> Update:
        """Return what the module holds, without a copy of A, B and the values."""
        down, up, values = (part.detach() for part in (self.down, self.up, self.values))
        return Update(down, up, self.rows * down.shape[1] + self.columns, values, self.scale)

    def forward(self, output: Tensor, x: Tensor) -> Tensor:
        """Add the update to what the frozen matrix puts out for x, see `add_update`."""
        tables = (self.down, self.up, self.rows, self.columns, self.values)
        return add_update(output, x, *tables, self.scale)

    def extra_repr(self) -> str:
        rank, inputs = self.down.shape
        return (
            f"{inputs} -> {self.up.shape[0]}, rank {rank}, {len(self.values)} entries, scale {self.scale:g}"
        )


def check_rank(shape: tuple[int, ...], rank: int, alpha: float) -> None:
    """Raise an OptionError where a matrix of this shape cannot have an update of that rank and scale."""
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise OptionError("lora_r", f"must be a whole number, 1 or more, got {rank!r}")
    if rank > min(shape):
        raise OptionError("lora_r", f"is {rank}, above the width of a matrix of {shape[0]} x {shape[1]}")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
        raise OptionError("lora_alpha", f"must be a finite number above 0, got {alpha!r}")
