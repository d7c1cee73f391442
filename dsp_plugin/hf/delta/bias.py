"""BitFit in a model: the encoder's own biases, whose values can be the base's or the task's."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from ...delta.modules import is_bias
from .families import encoder_of


class BiasPart:
    """The values of the biases; they lie in the parameters while the part is put on.

    Attributes:
        own, base: by name: the trained values while they are taken off, and the base's while they are on.
    """

    method = "bias"

    def __init__(self, own: dict[str, Tensor], settings: dict[str, Any]):
        self.own, self.settings = own, settings
        self.base: dict[str, Tensor] = {}
        self.on = False

    @classmethod
    def begin(cls, model: nn.Module, task_head: Collection[str] = ()) -> BiasPart:
        there = biases_of(model, task_head)
        own = {name: parameter.detach().clone() for name, parameter in there.items()}
        if not own:
            raise ValueError(f"the encoder of {type(model).__name__} has no bias")
        return cls(own, {})

    @classmethod
    def of_file(
        cls, model: nn.Module, settings: dict, tensors: dict[str, Tensor], task_head: Collection[str] = ()
    ) -> BiasPart:
        there = biases_of(model, task_head)
        if set(there) != set(tensors):
            name = sorted(set(there) ^ set(tensors))[0]
            raise ValueError(f"the file's biases are others than the model's: {name}")
        return cls({name: tensor.to(there[name], copy=True) for name, tensor in tensors.items()}, settings)

    def put(self, model: nn.Module) -> None:
        self.base, self.on = _swap(model, self.own), True

    def take(self, model: nn.Module) -> None:
        self.own, self.on = _swap(model, self.base), False

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        there = dict(model.named_parameters())
        return [there[name] for name in called(self.own, there).values()]

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        if not self.on:
            return dict(self.own)
        there = dict(model.named_parameters())
        return {name: there[known].detach() for name, known in called(self.own, there).items()}


def biases_of(model: nn.Module, task_head: Collection[str] = ()) -> dict[str, nn.Parameter]:
    """Return the encoder's parameters that are called bias, by their names in the model.

    Args:
        task_head: names of parameters that are trained dense, and so are no part of BitFit.
    """
    path, encoder = encoder_of(model)
    lead = f"{path}." if path else ""
    found = {f"{lead}{name}": one for name, one in encoder.named_parameters() if is_bias(name)}
    return {name: one for name, one in found.items() if name not in task_head}


def called(names: Any, there: dict[str, Any]) -> dict[str, str]:
    """Return what names of the base are called where an update has taken its matrix in."""
    found = {}
    for name in names:
        inside = f"{name.rpartition('.')[0]}.base_layer.{name.rpartition('.')[2]}"
        found[name] = name if name in there else inside
    return found


@torch.no_grad()
def _swap(model: nn.Module, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give parameters other values, and return those they had: tensors change places, nothing is copied."""
    there = dict(model.named_parameters())
    before = {}
    for name, known in called(values, there).items():
        parameter = there[known]
        before[name] = parameter.data
        parameter.data = values[name].to(parameter.device, parameter.dtype)
    return before
