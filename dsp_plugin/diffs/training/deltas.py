"""The full-size diff of a `DiffVector`, a tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .noise import uniform

if TYPE_CHECKING:
    from .vector import DiffVector


class Deltas(Mapping[str, Tensor]):
    """name -> full-size change of the body's tensors, in w's dtype; nothing is kept."""

    def __init__(self, vector: DiffVector, sampled_step: int | None):
        self._vector = vector
        self._keys = None if sampled_step is None else vector.keys(sampled_step)
        self._index = {name: number for number, name in enumerate(vector.layout.names)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, name: str) -> Tensor:
        vector, layout, tensor = self._vector, self._vector.layout, self._index[name]
        here = slice(layout.offsets[tensor], layout.offsets[tensor] + layout.sizes[tensor])
        pieces = layout.tensor == tensor
        gates = vector.group_gates(self._keys).gate
        group, length = layout.group[pieces].to(gates.device), layout.length[pieces].to(gates.device)
        gate = torch.repeat_interleave(gates[group], length)
        if self._keys is None:
            z, _ = vector.concrete.mean(vector.alpha[here])
        else:
            u = uniform(here.start, here.stop - here.start, self._keys, gates.device).to(gates.dtype)
            z, _ = vector.concrete.sample(vector.alpha[here], u)
        return (z * gate * vector.w[here]).view(layout.parameters[tensor].shape)
