"""How many parameters each method trains."""

from __future__ import annotations

from typing import Any

from torch import nn

from .state import delta_of


def delta_account(model: nn.Module) -> dict[str, Any]:
    """Count the parameters of a model's methods.

    Returns:
        {"methods": {method: {"parameters", "stage", "on"}}, "task_head": of it, "trained": what the present
        stage trains, "added": of all methods, "base": the base's weights, "share": added over base}
    """
    state = delta_of(model)
    methods = {
        method: {
            "parameters": sum(one.numel() for one in part.parameters(model)),
            "stage": state.stages[method],
            "on": method not in state.off,
        }
        for method, part in state.parts.items()
    }
    names = dict(model.named_parameters())
    added = sum(one["parameters"] for one in methods.values())
    return {
        "methods": methods,
        "task_head": sum(names[name].numel() for name in state.task_head),
        "trained": sum(one.numel() for one in names.values() if one.requires_grad),
        "added": added,
        "base": state.base.total,
        "share": added / state.base.total,
    }
