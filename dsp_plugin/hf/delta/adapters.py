"""Bottleneck adapters in a model: after a sub-layer's output, before the residual sum and LayerNorm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...delta.modules import Adapter, bottleneck_of, check_adapter
from ...delta.parts import grouped
from .families import Places

_ATTRIBUTE = "delta_adapter"
_NAMES = ("down.weight", "down.bias", "up.weight", "up.bias")


class AdaptedDropout(nn.Dropout):
    """A sub-layer's dropout, the last thing before the residual sum, with an adapter behind it.

    A model's own dropout becomes one by its class, so that its parameters keep their names.
    """

    delta_adapter: Adapter

    def forward(self, x: Tensor) -> Tensor:
        return self.delta_adapter(super().forward(x))


class AdapterPart:
    """The adapters of a model, by the paths of the modules that hold the dropout."""

    method = "adapter"

    def __init__(self, adapters: dict[str, Adapter], settings: dict[str, Any]):
        self.adapters, self.settings = adapters, settings

    @classmethod
    def begin(cls, model: nn.Module, places: Places, kind: str, reduction: int, seed: int) -> AdapterPart:
        check_adapter(kind)
        width = model.config.hidden_size
        bottleneck = bottleneck_of(width, reduction)
        generator = torch.Generator().manual_seed(seed)
        # Pfeiffer et al., 2021: one a layer, after the feed-forward block
        first = places.after_attention if kind == "houlsby" else ()
        if not places.after_feed_forward or kind == "houlsby" and not first:
            raise ValueError(f"{type(model).__name__} has no places for adapters of the kind {kind}")
        found = {}
        for path in (*first, *places.after_feed_forward):
            weight = _check(model, path)
            found[path] = Adapter(width, bottleneck, generator).to(weight.device, weight.dtype)
        return cls(found, {"adapter": kind, "reduction": reduction, "seed": seed})

    @classmethod
    def of_file(cls, model: nn.Module, places: Places, settings: dict, tensors: dict) -> AdapterPart:
        found = {}
        known = {*places.after_attention, *places.after_feed_forward}
        for path, parts in grouped(tensors, _NAMES).items():
            if path not in known:
                raise ValueError(f"the model has no place for an adapter at {path}")
            weight = _check(model, path)
            bottleneck, width = parts["down.weight"].shape
            if width != model.config.hidden_size:
                reason = f"is {width} wide, the model {model.config.hidden_size}"
                raise ValueError(f"the adapter of {path} {reason}")
            adapter = Adapter(width, bottleneck).to(parts["down.weight"].dtype)
            adapter.load_state_dict(parts)
            found[path] = adapter.to(weight.device)
        return cls(found, dict(settings))

    def put(self, model: nn.Module) -> None:
        for path, adapter in self.adapters.items():
            block = model.get_submodule(path)
            dropout = block.dropout
            weight = next(block.parameters())
            adapter.to(weight.device, weight.dtype)
            adapter.train(model.training)
            dropout.__class__ = AdaptedDropout
            setattr(dropout, _ATTRIBUTE, adapter)

    def take(self, model: nn.Module) -> None:
        for path in self.adapters:
            dropout = model.get_submodule(path).dropout
            delattr(dropout, _ATTRIBUTE)
            dropout.__class__ = nn.Dropout

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return [one for adapter in self.adapters.values() for one in adapter.parameters()]

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        found = {}
        for path, adapter in self.adapters.items():
            found |= {f"{path}.{name}": tensor for name, tensor in adapter.state_dict().items()}
        return found


def _check(model: nn.Module, path: str) -> Tensor:
    """Return a weight beside a place for an adapter; raise a ValueError where there is none."""
    block = model.get_submodule(path)
    if type(getattr(block, "dropout", None)) is not nn.Dropout:
        raise ValueError(f"{path} of {type(model).__name__} has no plain dropout to put an adapter after")
    return next(block.parameters())
