"""Which parameters share a group gate: one tensor, one neuron, one layer, or the user's own.

A group function is asked once a tensor, with its name and shape, and answers with either
- a hashable label: the whole tensor belongs to the group of that label, which other tensors may share, or
- an integer tensor that broadcasts to the shape: elements of the same number form a group within this tensor.
  Work goes by stretches of neighbours in a group: rows are cheap, columns of a large matrix are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...options.errors import OptionError
from ..packs.layers import layer_numbers

Shape = tuple[int, ...]
# More stretches of fewer elements than this take seconds to list, and a training step some 20 times as long.
MAX_SHORT, SHORT = 1 << 18, 8
GroupFunction = Callable[[str, Shape], "Hashable | Tensor"]


def by_tensor(name: str, shape: Shape) -> Hashable:
    """Make one group a named tensor (the paper's structured diff pruning)."""
    return name


def by_neuron(name: str, shape: Shape) -> Hashable | Tensor:
    """Make one group a neuron: a row of a matrix, that is its first dimension. A vector is one group.

    In a linear layer a row is what comes into a neuron, in an embedding one word. GPT-2's Conv1D has [in,
    out]: there a row is what goes out of one.
    """
    if len(shape) < 2:
        return name
    return torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1))  # [rows] -> [rows, 1, ...]


GROUPINGS: dict[str, GroupFunction] = {"tensor": by_tensor, "neuron": by_neuron}
# what command lines call them
GROUPING_NAMES = ("tensor", "neuron", "layer", "none")


def method_name(grouping: str) -> str:
    """Name the method in records: diff-structured, diff-unstructured, or by its groups."""
    return {"tensor": "diff-structured", "none": "diff-unstructured"}.get(grouping, f"diff-{grouping}")


def grouping_name(per_params_alpha: int, per_neuron_alpha: int, per_layer_alpha: int) -> str:
    """Name the grouping (tensor, neuron, layer, or none) that the three switches of the command line ask for.

    Raises:
        OptionError: a switch that is neither 0 nor 1, or two that exclude each other.
    """
    switches = {
        "per_params_alpha": per_params_alpha,
        "per_neuron_alpha": per_neuron_alpha,
        "per_layer_alpha": per_layer_alpha,
    }
    for name, value in switches.items():
        if value not in (0, 1):
            raise OptionError(name, f"must be 0 or 1, got {value}")
    if per_neuron_alpha + per_layer_alpha + (not per_params_alpha) > 1:
        reason = "0, {} 1 and {} 1 exclude each other"
        raise OptionError("per_params_alpha", reason, "per_neuron_alpha", "per_layer_alpha")
    if not per_params_alpha:
        return "none"
    return "neuron" if per_neuron_alpha else "layer" if per_layer_alpha else "tensor"


def group_function(grouping: str, names: Sequence[str]) -> str | GroupFunction | None:
    """Return what `DiffVector` takes for a grouping of this name.

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

    def by_layer(name: str, shape: Shape) -> Hashable:
        return layers[name]

    return by_layer


class Stretch(NamedTuple):
    """Neighbouring elements of one tensor that belong to one group."""

    tensor: int
    start: int  # in the flattened tensor
    length: int
    group: int


def stretches_of(
    names: Sequence[str], shapes: Sequence[Shape], grouping: GroupFunction
) -> tuple[list[Stretch], list[Hashable]]:
    """Cut every tensor into stretches of one group, in order; return them and the groups' labels.

    Raises:
        ValueError: an answer is neither hashable nor an integer tensor that broadcasts to the tensor; there
            are more than `MAX_SHORT` stretches of fewer than `SHORT` elements.
    """
    short = 0
    stretches: list[Stretch] = []
    numbers: dict[Hashable, int] = {}
    for index, (name, shape) in enumerate(zip(names, shapes)):
        size = int(torch.Size(shape).numel())
        answer = grouping(name, tuple(shape))
        if not isinstance(answer, Tensor):
            try:
                stretches.append(Stretch(index, 0, size, numbers.setdefault(answer, len(numbers))))
            except TypeError as error:
                wrong = f"the group function must give a label or an integer tensor for '{name}'"
                raise ValueError(wrong) from error
            continue
        starts, lengths, labels = _runs(name, answer, shape)
        short += int((lengths < SHORT).sum())
        if short > MAX_SHORT:
            raise ValueError(
                f"the groups of '{name}' {list(shape)} change from element to element: with the tensors "
                f"before it that makes {short} stretches of fewer than {SHORT} neighbours, and {MAX_SHORT} "
                "are the most; group rows, not columns"
            )
        for start, length, label in zip(starts.tolist(), lengths.tolist(), labels.tolist()):
            stretches.append(Stretch(index, start, length, numbers.setdefault((name, label), len(numbers))))
    return stretches, list(numbers)


def _runs(name: str, labels: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Find starts, lengths and labels of the runs of equal labels in the flattened tensor."""
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"the groups of '{name}' must be integers, not {labels.dtype}")
    # [the labels' sizes] -> [1, ..., 1, the labels' sizes], as many dimensions as the tensor has
    labels = labels.cpu().reshape((1,) * (len(shape) - labels.dim()) + tuple(labels.shape))
    # what the labels leave to broadcasting at the end need not be written out
    inner, leading = 1, len(shape)
    while leading and labels.shape[leading - 1] == 1:
        leading -= 1
        inner *= shape[leading]
    try:
        # [..., 1, 1] -> [...] -> the tensor's leading sizes -> [elements / inner]
        flat = labels.reshape(labels.shape[:leading]).expand(shape[:leading]).reshape(-1)
    except RuntimeError as error:
        wrong = f"the groups {list(labels.shape)} of '{name}' do not broadcast to {list(shape)}"
        raise ValueError(wrong) from error
    values, counts = torch.unique_consecutive(flat, return_counts=True)
    return (counts.cumsum(0) - counts) * inner, counts * inner, values
