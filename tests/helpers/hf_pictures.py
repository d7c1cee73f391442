"""What a model is made of, written down apart from the code that changes it, to compare before and after."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def picture(model: nn.Module) -> dict[str, Any]:
    """Every module with its class, attributes, hooks and tensors: the very objects (by id), and the values
    of tensors.
    """
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        found[path] = (type(module), id(module), {name: _seen(value) for name, value in vars(module).items()})
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found[f"values of {name}"] = (tensor.requires_grad, tensor.detach().clone())
    found["random"] = torch.get_rng_state()
    return found


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return list(one) == list(two) and all(_equal(one[name], two[name]) for name in one)


def _seen(value: Any) -> Any:
    if isinstance(value, dict):
        return [(key, id(part)) for key, part in value.items()]
    if isinstance(value, (set, frozenset)):
        return sorted(id(part) for part in value)
    if isinstance(value, (list, tuple)):
        return [id(part) for part in value]
    if hasattr(value, "to_dict"):
        return id(value), repr(sorted(vars(value).items(), key=str))
    if type(value).__name__ == "Heads":
        return id(value), value.kept, value.original, value.position, id(value.switchboard)
    return value if isinstance(value, (bool, int, float, str, type(None))) else id(value)


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, tuple):
        return len(one) == len(two) and all(_equal(left, right) for left, right in zip(one, two))
    return one == two
