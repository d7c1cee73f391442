"""Many tensors as one flat line of positions, cut into pieces that share a tensor and a group.

Notation: N elements in all, T tensors, P pieces, G groups. A position counts from 0 to N - 1 over all tensors
    in the
order they are given, each row-major; noise, ties and state are by position.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from .groups import GroupFunction, by_tensor, stretches_of

# Work is shared out by pieces: small enough to balance threads, large enough not to notice.
PIECE = 1 << 16


class FlatLayout:
    """Where each of some parameters lies on the line, and the pieces.

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
        columns = torch.tensor(rows, dtype=torch.int64).reshape(-1, 5).t().contiguous()
        self.flat, self.local, self.length, self.tensor, self.group = columns.unbind()

    @property
    def groups(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        return self.parameters[0].device

    def grouping_hash(self) -> str:
        """SHA-256 over which element belongs to which group, however the line is cut into pieces."""
        begins = torch.ones(self.flat.numel(), dtype=torch.bool)
        begins[1:] = self.group[1:] != self.group[:-1]
        digest = hashlib.sha256(f"{self.total} {self.sizes}".encode())
        for column in (self.flat[begins], self.group[begins]):
            digest.update(column.numpy())
        return digest.hexdigest()

    def split(self, flat: Tensor) -> list[Tensor]:
        """The line [N] as views of the tensors' shapes."""
        pieces = flat.split(self.sizes)
        return [piece.view(parameter.shape) for piece, parameter in zip(pieces, self.parameters)]

    def group_sums(self, per_piece: Tensor) -> Tensor:
        """Sums by group, [P] float64 -> [G] float64, always added in the same order."""
        if not hasattr(self, "_order"):
            self._order = torch.argsort(self.group, stable=True).to(per_piece.device)
            self._counts = torch.bincount(self.group, minlength=self.groups).to(per_piece.device)
        return torch.segment_reduce(per_piece[self._order], "sum", lengths=self._counts)
