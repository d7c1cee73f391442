"""The cache of a decoder block that has lost all its heads.

Transformers asks a cache for its length, its first layer above all, and a stock layer whose keys have no
elements answers 0: positions would start again at every step. Such a block's layer is made to answer by the
shape of its keys, [B, 0, L, d], instead.

Notation: B examples, L positions, d size of a head.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache

from ..heads_link import drop_forward_hook


class ShapedLayer(DynamicLayer):
    """A `DynamicLayer` that tells its length from the shape of its keys, even if they have no elements."""

    def get_seq_length(self) -> int:
        if not self.is_initialized or self.keys.dim() < 2:  # what a lazily made layer begins with is [0]
            return 0
        return self.keys.shape[-2]


def count_steps_without_heads(module: nn.Module) -> None:
    """Let the cache of a self-attention module without heads know its length. Safe to call again."""
    forget_steps(module)
    module.register_forward_hook(_reshape_layer, with_kwargs=True)


def forget_steps(module: nn.Module) -> None:
    """Undo `count_steps_without_heads`."""
    drop_forward_hook(module, _reshape_layer)


def _reshape_layer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    # afterwards, because a lazily made cache has the layer only then
    cache = next((value for value in (*args, *kwargs.values()) if isinstance(value, Cache)), None)
    if isinstance(cache, EncoderDecoderCache):
        cache = cache.self_attention_cache
    index = getattr(module, "layer_idx", None)
    if cache is None or index is None or index >= len(cache.layers):
        return
    layer = cache.layers[index]
    if type(layer) is DynamicLayer:  # every other kind counts its steps itself
        layer.__class__ = ShapedLayer
