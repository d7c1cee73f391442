"""Groupings by the names that command lines give them, on both hosts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from .groups import GroupFunction
from .layers import layer_numbers

GROUPING_NAMES = ("tensor", "neuron", "layer", "none")


def method_name(grouping: str) -> str:
    """Name of the method in records: diff-structured, diff-unstructured, or by its groups."""
    return {"tensor": "diff-structured", "none": "diff-unstructured"}.get(grouping, f"diff-{grouping}")


def grouping_name(per_params_alpha: int, per_neuron_alpha: int, per_layer_alpha: int) -> str:
    """tensor, neuron, layer, or none (unstructured), from the three switches of the command line.

    Raises:
        ValueError: a switch that is neither 0 nor 1, or two that exclude each other.
    """
    switches = {
        "per_params_alpha": per_params_alpha,
        "per_neuron_alpha": per_neuron_alpha,
        "per_layer_alpha": per_layer_alpha,
    }
    for name, value in switches.items():
        if value not in (0, 1):
            raise ValueError(f"{name} must be 0 or 1, got {value}")
    if per_neuron_alpha + per_layer_alpha + (not per_params_alpha) > 1:
        raise ValueError("per_params_alpha 0, per_neuron_alpha 1 and per_layer_alpha 1 exclude each other")
    if not per_params_alpha:
        return "none"
    return "neuron" if per_neuron_alpha else "layer" if per_layer_alpha else "tensor"


def group_function(grouping: str, names: Sequence[str]) -> str | GroupFunction | None:
    """What `DiffVector` takes for a grouping of this name.

    Args:
        names: all parameters of the model.

    Raises:
        ValueError: no such grouping.
    """
    if grouping not in GROUPING_NAMES:
        raise ValueError(f"grouping must be one of {', '.join(GROUPING_NAMES)}, got '{grouping}'")
    if grouping == "none":
        return None
    if grouping != "layer":
        return grouping
    layers, _ = layer_numbers(names)

    def by_layer(name: str, shape: Any) -> Hashable:
        return layers[name]

    return by_layer
