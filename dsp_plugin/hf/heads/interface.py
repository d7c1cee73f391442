"""Attention functions for models with removed or closed heads, around Transformers' own.

Gates need none of this: they act on the input of the output projection. Three things do: T5's position bias,
which is made for all heads and shared between layers; blocks that have lost all their heads, which not every
kernel takes; and attention maps, of which a masked model shows those of open heads. Each function is
registered under the name of the stock one with `dsp_` before it, as an attention function and, just as
needed, as a mask function: without that Transformers builds no mask at all, and padding is attended to.

Notation: B examples, H query heads, L queries, S keys, d size of a head.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .heads_link import LINK, Heads, add_hook, drop_hook
from .layouts.locate import model_parts

PREFIX = "dsp_"


def stock_name(implementation: str | None) -> str:
    """Return the stock name of an implementation, ours or stock: "sdpa" for "dsp_sdpa"."""
    return (implementation or "sdpa").removeprefix(PREFIX)


def registered(stock: str) -> str:
    """Return the name of our function around the implementation `stock`; register it if it is not yet.

    Raises:
        ValueError: Transformers has no such implementation, or none that builds a mask.
    """
    name = PREFIX + stock
    is_there = stock == "eager" or stock in ALL_ATTENTION_FUNCTIONS
    if stock not in ALL_MASK_ATTENTION_FUNCTIONS or not is_there:
        known = ", ".join(sorted(key for key in ALL_MASK_ATTENTION_FUNCTIONS if not key.startswith(PREFIX)))
        raise ValueError(
            f"heads cannot be gated under the attention implementation {stock!r}; possible are {known}"
        )
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, _function(stock))
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[stock])
    return name


def show_open_heads(configs: Iterable[Any]) -> None:
    """Let eager attention, which returns its maps, be ours; call it before each forward pass."""
    for config in configs:
        if config._attn_implementation == "eager":
            _set(config, registered("eager"))


@contextmanager
def eager_maps(root: nn.Module) -> Iterator[None]:
    """Let every part of `root` work out its attention maps for a while, whatever implementation it has."""
    before = [(part.config, part.config._attn_implementation) for part in model_parts(root)]
    try:
        for config, _ in before:
            _set(config, registered("eager"))
        yield
    finally:
        for config, name in before:
            _set(config, name)


def use_ours(module: nn.Module) -> None:
    """Let an attention module call our function around the implementation it has, now and after a change."""
    if hasattr(getattr(module, "config", None), "_attn_implementation"):
        _set_ours(module, ())
        add_hook(module, _set_ours)


def use_stock(root: nn.Module) -> None:
    """Let every part of `root` call the stock function of the implementation it has again."""
    for part in root.modules():
        drop_hook(part, _set_ours)
    for part in model_parts(root):
        _set(part.config, stock_name(part.config._attn_implementation))


def _set_ours(module: nn.Module, args: Any) -> None:
    config = module.config
    if not (config._attn_implementation or "").startswith(PREFIX):
        _set(config, registered(stock_name(config._attn_implementation)))


def _set(config: Any, name: str) -> None:
    # not `set_attn_implementation`: it checks names it knows, and looks for a flash kernel called like ours
    config._attn_implementation_internal = name


def _function(stock: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *args, **kwargs
    ) -> tuple[Tensor, Tensor | None]:
        """Return the context [B, L, H, d] of query [B, H, L, d] and key [B, H, S, d], and attention maps."""
        heads: Heads | None = getattr(module, LINK, None)
        if heads is None:
            return _call(stock, module, query, key, value, attention_mask, *args, **kwargs)
        if query.shape[1] == 0:  # not every kernel takes tensors without elements
            maps = (query.shape[0], 0, query.shape[2], key.shape[2])
            weights = query.new_zeros(maps) if stock == "eager" else None
            return query.transpose(1, 2), weights  # [B, 0, L, d] -> [B, L, 0, d]
        if kwargs.get("position_bias") is not None:
            kwargs["position_bias"] = heads.kept_bias(kwargs["position_bias"])
        context, weights = _call(stock, module, query, key, value, attention_mask, *args, **kwargs)
        return context, None if weights is None else heads.open_weights(weights)

    return attention


def _call(stock: str, module: nn.Module, *args, **kwargs) -> tuple[Tensor, Tensor | None]:
    if stock == "sdpa":
        return ALL_ATTENTION_FUNCTIONS[stock](module, *args, **kwargs)
    if stock == "eager":
        if getattr(module, "reorder_and_upcast_attn", False):  # GPT-2 looks for the name "eager" to do this
            return module._upcast_and_reordered_attn(*args[:4])
        return _eager(type(module))(module, *args, **kwargs)
    # the flash functions look up the kernel by the name in the configuration, which is ours
    config, name = module.config, module.config._attn_implementation
    _set(config, stock)
    try:
        return ALL_ATTENTION_FUNCTIONS[stock](module, *args, **kwargs)
    finally:
        _set(config, name)


def _eager(module_class: type) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return the eager attention function in the file of a module's class: every model has its own."""
    for base in module_class.__mro__:
        function = getattr(sys.modules.get(base.__module__), "eager_attention_forward", None)
        if function is not None:
            return function
    raise ValueError(
        f"{module_class.__name__} has no eager attention function: set attn_implementation to 'sdpa'"
    )


# so that a copied or unpickled model finds them without anybody having asked for them
for _stock in [key for key in ALL_MASK_ATTENTION_FUNCTIONS if not key.startswith(PREFIX)]:
    registered(_stock)
