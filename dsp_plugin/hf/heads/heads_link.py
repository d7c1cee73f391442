"""What is known of one attention block's heads: which gates are theirs, and which of them are left.

A gate is a factor on a part of the input of the block's output projection: a forward pre-hook on that
projection applies it, whatever the attention before it is. The link lies in the `__dict__` of the projection
and of the attention module, so that it is copied and pickled with them and is no part of the model's state.

Notation: B examples, L positions, h heads of the HeadMap, F = h * d features of the context that is
    projected.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...gating import Switchboard
from ...gating.open_heads import heads_open

LINK = "dsp_heads"
# the attribute of a gated model that holds its switchboard, and so the first word of its saved names
GATING = "gating"


class Heads:
    """The heads of one attention block. Not a module: nothing of it is saved.

    Args:
        group: query heads a head of the HeadMap has.
        original: heads the block had before any removal.

    Attributes:
        kept: original numbers of the heads left; None: all.
        switchboard: where its gates come from; None: it has none.
        position: of the block in the switchboard's HeadMap.
    """

    def __init__(self, group: int, original: int):
        self.group = group
        self.original = original
        self.kept: list[int] | None = None
        self.switchboard: Switchboard | None = None
        self.position = 0
        self._index: dict[torch.device, Tensor] = {}
        self._last: tuple[Tensor, torch.dtype, Tensor] | None = None

    def keep(self, kept: list[int] | None) -> None:
        self.kept = kept
        self._index = {}

    def kept_index(self, device: torch.device) -> Tensor:
        """Original numbers of the heads left, on a device, to take their part of what is made for all."""
        if device not in self._index:
            self._index[device] = torch.tensor(self.kept, device=device, dtype=torch.long)
        return self._index[device]

    def bias(self, position_bias: Tensor) -> Tensor:
        """T5 shares one position bias [1, all heads, L, S] between its layers; here the part of the heads
        kept.
        """
        return (
            position_bias
            if self.kept is None
            else position_bias.index_select(1, self.kept_index(position_bias.device))
        )

    def gated(self, context: Tensor) -> Tensor:
        """context [B, ..., F] times its gates, [h] or [B, h]; without gradients in place.

        Raises:
            ValueError: rows of gates, where the context does not have one entry an example.
        """
        gates = None if self.switchboard is None else self.switchboard.block_gates(self.position)
        if gates is None or gates.shape[-1] == 0:
            return context
        if gates.dim() == 2 and (context.dim() < 3 or context.shape[0] != gates.shape[0]):
            raise ValueError(
                f"{self.switchboard.head_map.blocks[self.position].name} projects a tensor of shape "
                f"{tuple(context.shape)}, "
                f"which has no row for each of the {gates.shape[0]} examples: gates of one's own for every "
                "example need that"
            )
        if not torch.is_grad_enabled() and context.is_contiguous():
            # attention puts its context into a tensor of its own; a second one costs more than the
            # multiplication
            return context.mul_(self._row(gates, context))
        heads = context.unflatten(-1, (gates.shape[-1], -1))  # [B, ..., F] -> [B, ..., h, d]
        return (heads * _spread(gates, context).unsqueeze(-1)).flatten(-2)

    def shown(self, weights: Tensor) -> Tensor:
        """Of the attention weights [B, H, L, S] those of open heads, as the model without the closed ones has
        them.

        In training, where gates are neither open nor closed, all.
        """
        if self.switchboard is None or self.switchboard.training:
            return weights
        gates = self.switchboard.block_gates(self.position)
        if gates is None:
            return weights
        gates = gates.repeat_interleave(self.group, dim=-1) if self.group > 1 else gates
        found = heads_open(gates)
        return weights if found is None else weights[:, found.to(weights.device)]

    def _row(self, gates: Tensor, context: Tensor) -> Tensor:
        """[h] -> [F], [B, h] -> [B, 1, ..., F]: a factor a feature. That of a mask is kept: it is the same
        at every pass.
        """
        last = self._last
        if last is not None and last[0] is gates and last[1] is context.dtype:
            return last[2]
        row = _spread(gates, context).repeat_interleave(context.shape[-1] // gates.shape[-1], dim=-1)
        self._last = (gates, context.dtype, row) if gates.dim() == 1 else None
        return row

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": {}, "_last": None}


def _spread(gates: Tensor, context: Tensor) -> Tensor:
    """[h] as it is, [B, h] -> [B, 1, ..., h] with as many dimensions as the context; in its precision."""
    gates = gates.to(context.dtype)
    return (
        gates if gates.dim() == 1 else gates.view(gates.shape[0], *[1] * (context.dim() - 2), gates.shape[1])
    )


def gate_context(projection: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """A forward pre-hook on an output projection: its input [B, ..., F] times the gates of the block."""
    heads: Heads | None = projection.__dict__.get(LINK)
    if heads is None or heads.switchboard is None:
        return None
    if not args:
        raise ValueError(
            f"{heads.switchboard.head_map.blocks[heads.position].name} calls its output "
            "projection by keyword: "
            "its heads cannot be gated"
        )
    return heads.gated(args[0]), *args[1:]


def add_hook(module: nn.Module, hook: Any, **options: Any) -> None:
    """Register a forward pre-hook, once."""
    drop_hook(module, hook)
    module.register_forward_pre_hook(hook, **options)


def forget_heads(module: nn.Module) -> None:
    """Drop the link of a module and what it does."""
    drop_hook(module, gate_context)
    module.__dict__.pop(LINK, None)


def drop_hook(module: nn.Module, hook: Any) -> None:
    """Take a forward pre-hook off; by what it is, because the handles of a copied module are of the
    original.
    """
    for key in [key for key, found in module._forward_pre_hooks.items() if found is hook]:
        del module._forward_pre_hooks[key]
        module._forward_pre_hooks_with_kwargs.pop(key, None)
