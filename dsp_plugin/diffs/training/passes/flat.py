"""Many tensors as one flat line of positions, cut into pieces that share a tensor and a group.

Notation: N elements in all, T tensors, P pieces, G groups. A position counts from 0 to N - 1 over all tensors
in the order they are given, each row-major; noise, ties and state are by position.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from ..groups import GroupFunction, by_tensor, stretches_of
from .concrete import StretchedConcrete
from .noise import Keys, uniform

# Work is shared out by pieces: small enough to balance threads, large enough not to notice.
PIECE = 1 << 16


class FlatLayout:
    """The places of parameters on the line, and its pieces.

    Args:
        names, parameters: what to lay out, T of each; all on one device.
        grouping: the group function (see groups.py).

    Attributes:
        offsets: position of each tensor's first element, [T] integers.
        total: N.
        labels: the G groups' labels.
        flat, local, length, tensor, group: of each piece, [P] int64 on the CPU: its first position, its first
            element within its tensor, its number of elements, its tensor, its group.
    """

    def __init__(
        self, names: Sequence[str], parameters: Sequence[nn.Parameter], grouping: GroupFunction = by_tensor
    ):
        self.names = list(names)
        self.parameters = list(parameters)
        self.sizes = [parameter.numel() for parameter in self.parameters]
        self.offsets: list[int] = []
        self.total = 0
        for size in self.sizes:
            self.offsets.append(self.total)
            self.total += size
        shapes = [tuple(parameter.shape) for parameter in self.parameters]
        stretches, labels = stretches_of(self.names, shapes, grouping)
        self.labels: list[Hashable] = labels
        rows = [
            (self.offsets[tensor] + start + cut, start + cut, min(PIECE, length - cut), tensor, group)
            for tensor, start, length, group in stretches
            for cut in range(0, length, PIECE)
        ]
        columns = torch.tensor(rows, dtype=torch.int64).reshape(-1, 5).t().contiguous()  # [P, 5] -> [5, P]
        self.flat, self.local, self.length, self.tensor, self.group = columns.unbind()

    @property
    def groups(self) -> int:
        """The number of groups, G."""
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """The device that all parameters are on."""
        return self.parameters[0].device

    def grouping_hash(self) -> str:
        """Return the SHA-256 over which element is in which group, however the line is cut into pieces."""
        begins = torch.ones(self.flat.numel(), dtype=torch.bool)
        begins[1:] = self.group[1:] != self.group[:-1]
        digest = hashlib.sha256(f"{self.total} {self.sizes}".encode())
        for column in (self.flat[begins], self.group[begins]):
            digest.update(column.numpy())
        return digest.hexdigest()

    def split(self, flat: Tensor) -> list[Tensor]:
        """Split the line [N] into views of the tensors' shapes."""
        pieces = flat.split(self.sizes)
        # each [elements] -> the parameter's shape
        return [piece.view(parameter.shape) for piece, parameter in zip(pieces, self.parameters)]

    def group_sums(self, per_piece: Tensor) -> Tensor:
        """Sum by group, [P] float64 -> [G] float64, always added in the same order."""
        order, counts = self._by_group
        # [P] in the groups' order -> [G]
        return torch.segment_reduce(per_piece[order], "sum", lengths=counts)

    @cached_property
    def _by_group(self) -> tuple[Tensor, Tensor]:
        """The pieces ordered by their groups, [P], and how many are in each group, [G]; on the device."""
        order = torch.argsort(self.group, stable=True)
        counts = torch.bincount(self.group, minlength=self.groups)
        return order.to(self.device), counts.to(self.device)


class Deltas(Mapping[str, Tensor]):
    """The full-size diff z * gate * w, name -> change of that tensor, worked out when it is asked for.

    Args:
        layout: of the tensors.
        w, alpha: the diff's, [N]; looked at when asked.
        gates: of the groups, [G].
        concrete: the gates' distribution.
        keys: of the noise; None for the deterministic diff.
    """

    def __init__(
        self,
        layout: FlatLayout,
        w: Tensor,
        alpha: Tensor,
        gates: Tensor,
        concrete: StretchedConcrete,
        keys: Keys | None,
    ):
        self._layout, self._w, self._alpha, self._gates = layout, w, alpha, gates
        self._concrete, self._keys = concrete, keys
        self._index = {name: number for number, name in enumerate(layout.names)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, name: str) -> Tensor:
        layout, tensor = self._layout, self._index[name]
        here = slice(layout.offsets[tensor], layout.offsets[tensor] + layout.sizes[tensor])
        pieces = layout.tensor == tensor
        group, length = (part[pieces].to(self._gates.device) for part in (layout.group, layout.length))
        gate = torch.repeat_interleave(self._gates[group], length)  # [pieces] -> [elements]
        if self._keys is None:
            z, _ = self._concrete.mean(self._alpha[here])
        else:
            u = uniform(here.start, here.stop - here.start, self._keys, gate.device).to(gate.dtype)
            z, _ = self._concrete.sample(self._alpha[here], u)
        # [elements] -> the parameter's shape
        return (z * gate * self._w[here]).view(layout.parameters[tensor].shape)
