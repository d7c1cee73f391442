"""The attention functions that know of heads: Transformers' own, with gates on the context and with fewer heads.

Each is registered under the name of the stock one with `dsp_` before it, as an attention function and, just as
needed, as a mask function: without that Transformers builds no mask at all, and padding is attended to.

Notation: B examples, L query positions, H query heads, h heads of the HeadMap (H / G), d size of a head.
"""

from __future__ import annotations

import sys
from typing import Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..gating import Switchboard
from ..gating.open_heads import heads_open
from .layouts import model_parts

PREFIX = "dsp_"
LINK = "dsp_heads"  # the attribute of an attention module that holds its `Heads`


class Heads:
    """What the attention function must know of one attention module. Not a module: nothing of it is saved.

    Args:
        group: query heads a head of the HeadMap has.
        original: heads the block had before any removal.
    """

    def __init__(self, group: int, original: int):
        self.group = group
        self.original = original
        self.kept: Optional[List[int]] = None  # original numbers of the heads left; None: all
        self.switchboard: Optional[Switchboard] = None
        self.position = 0
        self._index: Dict[torch.device, Tensor] = {}

    def keep(self, kept: List[int]) -> None:
        self.kept = kept
        self._index = {}

    def bias(self, position_bias: Tensor) -> Tensor:
        """T5 shares one position bias [1, all heads, L, S] between its layers; here the part of the heads kept."""
        if self.kept is None:
            return position_bias
        if position_bias.device not in self._index:
            self._index[position_bias.device] = torch.tensor(self.kept, device=position_bias.device)
        return position_bias.index_select(1, self._index[position_bias.device])

    def gate(self, context: Tensor) -> Tensor:
        """context [B, L, H, d] times its gates, [h] or [B, h]; without gradients in place."""
        gates = self._gates()
        if gates is None:
            return context
        gates = gates.to(context.dtype).unsqueeze(-1)  # [H, 1] or [B, H, 1]
        gates = gates if gates.dim() == 2 else gates[:, None]
        # attention functions return a tensor of their own; a second one costs more than the multiplication
        return context * gates if torch.is_grad_enabled() else context.mul_(gates)

    def shown(self, weights: Tensor) -> Tensor:
        """Of the attention weights [B, H, L, S] those of open heads, as the model without the closed ones has them.

        In training, where gates are neither open nor closed, all.
        """
        gates = self._gates()
        found = None if gates is None or self.switchboard.training else heads_open(gates)
        return weights if found is None else weights[:, found.to(weights.device)]

    def _gates(self) -> Optional[Tensor]:
        """[H] or [B, H]"""
        gates = None if self.switchboard is None else self.switchboard.block_gates(self.position)
        return gates.repeat_interleave(self.group, dim=-1) if gates is not None and self.group > 1 else gates


def stock_name(implementation: Optional[str]) -> str:
    """The stock name of an implementation, ours or stock: "sdpa" for "dsp_sdpa"."""
    return (implementation or "sdpa").removeprefix(PREFIX)


def registered(stock: str) -> str:
    """The name of our function around the stock implementation `stock`, registered if it was not yet.

    Raises:
        ValueError: Transformers has no such implementation, or none that builds a mask.
    """
    name = PREFIX + stock
    if stock not in ALL_MASK_ATTENTION_FUNCTIONS or (stock != "eager" and stock not in ALL_ATTENTION_FUNCTIONS):
        known = ", ".join(sorted(key for key in ALL_MASK_ATTENTION_FUNCTIONS if not key.startswith(PREFIX)))
        raise ValueError(f"heads cannot be gated under the attention implementation {stock!r}; possible are {known}")
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, _function(stock))
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[stock])
    return name


def use_ours(model: PreTrainedModel) -> None:
    """Let every part of the model call our function around the implementation it has."""
    names = {id(p.config): registered(stock_name(p.config._attn_implementation)) for p in model_parts(model)}
    for part in model_parts(model):
        # not `set_attn_implementation`: it checks names it knows, and looks for a flash kernel called like ours
        part.config._attn_implementation_internal = names[id(part.config)]


def use_stock(model: PreTrainedModel) -> None:
    """The inverse of `use_ours`."""
    for part in model_parts(model):
        part.config._attn_implementation_internal = stock_name(part.config._attn_implementation)


def _function(stock: str) -> Callable[..., Tuple[Tensor, Optional[Tensor]]]:
    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Optional[Tensor], *args, **kwargs
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """query [B, H, L, d] -> context [B, L, H, d]"""
        heads: Optional[Heads] = getattr(module, LINK, None)
        if heads is not None:
            if query.shape[1] == 0:  # not every kernel takes tensors without elements
                weights = query.new_zeros(query.shape[0], 0, query.shape[2], key.shape[2]) if stock == "eager" else None
                return query.transpose(1, 2), weights
            if kwargs.get("position_bias") is not None:
                kwargs["position_bias"] = heads.bias(kwargs["position_bias"])
        context, weights = _call(stock, module, query, key, value, attention_mask, *args, **kwargs)
        if heads is None:
            return context, weights
        return heads.gate(context), None if weights is None else heads.shown(weights)

    return attention


def _call(stock: str, module: nn.Module, *args, **kwargs) -> Tuple[Tensor, Optional[Tensor]]:
    if stock == "sdpa":
        return ALL_ATTENTION_FUNCTIONS[stock](module, *args, **kwargs)
    if stock == "eager":
        if getattr(module, "reorder_and_upcast_attn", False):  # GPT-2 looks for the name "eager" to do this
            return module._upcast_and_reordered_attn(*args[:4])
        return _eager(type(module))(module, *args, **kwargs)
    # the flash functions look up the kernel by the name in the configuration, which is ours
    config, name = module.config, module.config._attn_implementation
    config._attn_implementation_internal = stock
    try:
        return ALL_ATTENTION_FUNCTIONS[stock](module, *args, **kwargs)
    finally:
        config._attn_implementation_internal = name


def _eager(module_class: type) -> Callable[..., Tuple[Tensor, Tensor]]:
    """Eager attention differs from model to model: the function in the file that the module's class comes from."""
    for base in module_class.__mro__:
        function = getattr(sys.modules.get(base.__module__), "eager_attention_forward", None)
        if function is not None:
            return function
    raise ValueError(f"{module_class.__name__} has no eager attention function: set attn_implementation to 'sdpa'")


# so that a copied or unpickled model finds them without anybody having asked for them
for _stock in [key for key in ALL_MASK_ATTENTION_FUNCTIONS if not key.startswith(PREFIX)]:
    registered(_stock)
