"""Buffers of a model while a diff is trained in it: they are in no diff, so a changed one must be told of."""

from __future__ import annotations

import warnings

from torch import Tensor, nn


class BufferWatch:
    """Remembers the floating buffers that a model saves, as they are now; their sizes are small
    (BatchNorm's statistics).
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._told = False
        saved = model.state_dict().keys()
        self._before = {
            name: buffer.detach().clone() for name, buffer in self._floating().items() if name in saved
        }

    def changed(self) -> list[str]:
        """Names of those that are other now, to the bit."""
        now = self._floating()
        return [
            name for name, before in self._before.items() if name not in now or not _same(before, now[name])
        ]

    def warn(self) -> None:
        """Warns once, if any changed."""
        if self._told or not (changed := self.changed()):
            return
        self._told = True
        warnings.warn(
            f"{len(changed)} of the model's buffers changed in training ({', '.join(changed[:3])}): they are "
            "no part of the "
            "diff, so base + diff is not this model; keep such modules (BatchNorm) in eval() while the diff "
            "is trained"
        )

    def _floating(self) -> dict[str, Tensor]:
        return {name: buffer for name, buffer in self._model.named_buffers() if buffer.is_floating_point()}


def _same(one: Tensor, other: Tensor) -> bool:
    """Not-a-number is equal to itself here."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    other = other.detach().to(one.device)
    return bool(((one == other) | (one.isnan() & other.isnan())).all())
