"""Changing a few weights of a model in place, and changing them back bit for bit.

The old values are kept: floating-point sums are rounded, so that subtraction does not give them back.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...artefacts.base import tensors_of

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Change:
    """The changes of one tensor: positions [n] int64 in the flattened tensor, old and new values [n]."""

    positions: Tensor
    old: Tensor
    new: Tensor


@dataclass
class Undo:
    """The changes that were made to a model.

    Attributes:
        changes: by the model's own names.
        task_head: name → (old tensor, None where there was none; new tensor).
    """

    changes: dict[str, Change]
    task_head: dict[str, tuple[Tensor | None, Tensor]]

    def do(self, target: nn.Module | MutableMapping[str, Tensor]) -> None:
        """Write the new values. Nothing is compared: `DiffPack.apply` has done so."""
        tensors = tensors_of(target)
        with torch.no_grad():
            for name, change in self.changes.items():
                put(tensors[name], change.positions, change.new)
            for name, (_, new) in self.task_head.items():
                if isinstance(target, nn.Module):
                    tensors[name].copy_(new)
                else:
                    target[name] = new.clone()

    def revert(self, target: nn.Module | MutableMapping[str, Tensor]) -> None:
        """Write the old values back.

        Raises:
            ValueError: it is another model, or its weights were changed again since; nothing is written.
        """
        tensors = tensors_of(target)
        for name, change in self.changes.items():
            if name not in tensors or not _same_bits(_taken(tensors[name], change.positions), change.new):
                raise ValueError(f"cannot revert: {name} is not as the diff left it")
        for name, (_, new) in self.task_head.items():
            if name not in tensors or not _same_bits(tensors[name], new.to(tensors[name].dtype)):
                raise ValueError(f"cannot revert: the task head's {name} is not as the diff left it")
        with torch.no_grad():
            for name, change in self.changes.items():
                put(tensors[name], change.positions, change.old)
            for name, (old, _) in self.task_head.items():
                if isinstance(target, nn.Module):
                    tensors[name].copy_(old)
                elif old is None:
                    del target[name]
                else:
                    target[name] = old

    @property
    def num_bytes(self) -> int:
        """The bytes that the old values take."""
        old = [change.old for change in self.changes.values()]
        old += [tensor for tensor, _ in self.task_head.values() if tensor is not None]
        return sum(tensor.numel() * tensor.element_size() for tensor in old)


def put(weight: Tensor, positions: Tensor, values: Tensor) -> None:
    """Write `values` [n] at `positions` [n] of the flattened `weight`, in place, without gradients."""
    values, weight = values.to(weight.device), weight.detach()
    if weight.is_contiguous():
        weight.view(-1).scatter_(0, positions.to(weight.device), values)  # [elements]
    else:
        flat = weight.reshape(-1)  # [elements], a copy
        flat.scatter_(0, positions.to(weight.device), values)
        weight.copy_(flat.view(weight.shape))  # [elements] -> the weight's shape


def _taken(weight: Tensor, positions: Tensor) -> Tensor | None:
    positions = positions.to(weight.device)
    if len(positions) and int(positions[-1]) >= weight.numel():
        return None
    return weight.detach().reshape(-1)[positions]  # any shape -> [elements] -> [n]


def _same_bits(here: Tensor | None, there: Tensor) -> bool:
    """Compare bit for bit: 0 and -0 differ, a NaN equals itself."""
    if here is None or here.dtype != there.dtype or here.shape != there.shape:
        return False
    bits, there = _BITS[here.element_size()], there.to(here.device)
    # each view takes the numbers for integers of as many bytes; the shape stays
    return torch.equal(here.detach().contiguous().view(bits), there.contiguous().view(bits))
