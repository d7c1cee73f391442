"""The link between a block and its units: which gates are theirs, and which of them are left.

A gate is a factor on a part of the input of the block's output projection: a forward pre-hook on that
projection applies it, whatever the attention before it is. The link lies in the `__dict__` of the projection
and of the attention module, so that it is copied and pickled with them and is no part of the model's state.

Notation: B examples, L positions, h heads of the HeadMap, F = h * d features of the projected context.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...gating import Switchboard
from ...gating.gates import for_examples, heads_open
from .layouts.neuron_probe import OF_GATES

LINK = "dsp_heads"
# the attribute of a gated model that holds its switchboard, and so the first word of its saved names
GATING = "gating"


class Heads:
    """The heads of one attention block. Not a module: nothing of it is saved.

    Args:
        group: number of query heads in a head of the HeadMap.
        original: number of heads the block had before any removal.
        neurons: neurons in a group, where the units are groups of neurons; 0 for heads.
        flat: the context may be [B * L, F], one example after the other.

    Attributes:
        kept: original numbers of the heads that are left; None: none was removed.
        switchboard: source of the block's gates; None: it has no gates.
        position: the block's position in the switchboard's HeadMap.
    """

    def __init__(self, group: int, original: int, neurons: int = 0, flat: bool = False):
        self.group = group
        self.original = original
        self.neurons = neurons
        self.flat = flat
        self.kept: list[int] | None = None
        self.switchboard: Switchboard | None = None
        self.position = 0
        self._index: dict[torch.device, Tensor] = {}
        self._last: tuple[Tensor, torch.dtype, Tensor] | None = None

    def keep(self, kept: list[int] | None) -> None:
        """Note which heads are left; see the attribute `kept`."""
        self.kept = kept
        self._index = {}

    def kept_index(self, device: torch.device) -> Tensor:
        """Return `kept` as int64 [h] on a device, for `index_select` along all heads."""
        if device not in self._index:
            self._index[device] = torch.tensor(self.kept, device=device, dtype=torch.long)
        return self._index[device]

    def kept_bias(self, bias: Tensor) -> Tensor:
        """Select the kept heads of a position bias [1, all heads, L, S], which T5's layers share."""
        return bias if self.kept is None else bias.index_select(1, self.kept_index(bias.device))

    def gated(self, context: Tensor) -> Tensor:
        """Multiply a context [B, ..., F] by its gates, [h] or [B, h]; in place where no gradients are kept.

        Raises:
            ValueError: the gates are [B, h], and the context does not have one entry an example.
        """
        gates = None if self.switchboard is None else self.switchboard.block_gates(self.position)
        if gates is None or gates.shape[-1] == 0:
            return context
        if gates.dim() == 2 and self.switchboard.training:
            # drawn in training, where rows go round; where the examples cannot be told apart, one serves all
            gates = for_examples(gates, context.shape[0]) if context.dim() > 2 else gates[0]
        if self.flat and gates.dim() == 2 and context.dim() == 2 and not context.shape[0] % gates.shape[0]:
            by_example = context.unflatten(0, (gates.shape[0], -1))  # [B * L, F] -> [B, L, F]
            return self._gated(gates, by_example).flatten(0, 1)
        if gates.dim() == 2 and (context.dim() < 3 or context.shape[0] != gates.shape[0]):
            raise ValueError(
                f"{self.switchboard.head_map.blocks[self.position].name} projects a tensor of shape "
                f"{tuple(context.shape)}, which has no row for each of the {gates.shape[0]} examples: gates "
                "of one's own for every example need that"
            )
        return self._gated(gates, context)

    def _gated(self, gates: Tensor, context: Tensor) -> Tensor:
        if not torch.is_grad_enabled() and context.is_contiguous():
            # attention made this tensor for its context alone; another one costs more than the product
            return context.mul_(self._factors(gates, context))
        heads = context.unflatten(-1, (gates.shape[-1], -1))  # [B, ..., F] -> [B, ..., h, d]
        return (heads * _broadcast(gates, context).unsqueeze(-1)).flatten(-2)  # -> [B, ..., F]

    def open_weights(self, weights: Tensor) -> Tensor:
        """Select the open heads' attention weights from [B, H, L, S], as in a model without the closed heads.

        In training, where gates are neither open nor closed, all are returned.
        """
        if self.switchboard is None or self.switchboard.training:
            return weights
        gates = self.switchboard.block_gates(self.position)
        if gates is None:
            return weights
        found = heads_open(gates.repeat_interleave(self.group, dim=-1))  # [..., h] -> [..., H]
        return weights if found is None else weights[:, found.to(weights.device)]

    def _factors(self, gates: Tensor, context: Tensor) -> Tensor:
        """Return a factor for each feature, [h] -> [F] or [B, h] -> [B, 1, ..., F].

        Those of a mask [h] are remembered: the same mask holds at every pass.
        """
        last = self._last
        if last is not None and last[0] is gates and last[1] is context.dtype:
            return last[2]
        factors = _broadcast(gates, context).repeat_interleave(context.shape[-1] // gates.shape[-1], dim=-1)
        self._last = (gates, context.dtype, factors) if gates.dim() == 1 else None
        return factors

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": {}, "_last": None}


def _broadcast(gates: Tensor, context: Tensor) -> Tensor:
    """Return gates [h] as they are, [B, h] with the dimensions of the context; in its precision."""
    gates = gates.to(context.dtype)
    if gates.dim() == 1:
        return gates
    return gates.view(gates.shape[0], *[1] * (context.dim() - 2), gates.shape[1])  # [B, h] -> [B, 1, ..., h]


def gate_context(projection: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Multiply the input [B, ..., F] of an output projection by the block's gates, as a forward pre-hook."""
    heads: Heads | None = projection.__dict__.get(LINK)
    if heads is None or heads.switchboard is None:
        return None
    if not args:
        raise ValueError(
            f"{heads.switchboard.head_map.blocks[heads.position].name} calls its output projection by "
            "keyword: its heads cannot be gated"
        )
    return heads.gated(args[0]), *args[1:]


setattr(gate_context, OF_GATES, True)


def add_hook(module: nn.Module, hook: Any, **options: Any) -> None:
    """Register a forward pre-hook, once."""
    drop_hook(module, hook)
    module.register_forward_pre_hook(hook, **options)


def forget_heads(module: nn.Module) -> None:
    """Drop the link of a module, and the hook that applies its gates."""
    drop_hook(module, gate_context)
    module.__dict__.pop(LINK, None)


def drop_hook(module: nn.Module, hook: Any) -> None:
    """Remove a forward pre-hook: by the function, because a copied module's handles are the original's."""
    for key in [key for key, found in module._forward_pre_hooks.items() if found is hook]:
        del module._forward_pre_hooks[key]
        module._forward_pre_hooks_with_kwargs.pop(key, None)


def drop_forward_hook(module: nn.Module, hook: Any) -> None:
    """Remove a forward hook, in the same way."""
    for key in [key for key, found in module._forward_hooks.items() if found is hook]:
        del module._forward_hooks[key]
        module._forward_hooks_with_kwargs.pop(key, None)
        module._forward_hooks_always_called.pop(key, None)
