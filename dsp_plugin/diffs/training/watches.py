"""Watches over what else may change a model while a diff is trained in it: buffers, and other optimizers."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ...handshake.optimizer_steps import watch_steps


class BufferWatch:
    """Remembers the floating buffers that a model saves, as they are now; they are small (BatchNorm's)."""

    def __init__(self, model: nn.Module):
        self._model = model
        self._warned = False
        saved = model.state_dict().keys()
        now = self._floating()
        self._before = {name: now[name].detach().clone() for name in now if name in saved}

    def changed(self) -> list[str]:
        """Return the names of those that are other now, to the bit."""
        now, before = self._floating(), self._before
        return [name for name in before if name not in now or not _same(before[name], now[name])]

    def warn(self) -> None:
        """Warn once, if any changed."""
        if self._warned or not (changed := self.changed()):
            return
        self._warned = True
        warnings.warn(
            f"{len(changed)} of the model's buffers changed in training ({', '.join(changed[:3])}): they "
            "are no part of the diff, so base + diff is not this model; keep such modules (BatchNorm) in "
            "eval() while the diff is trained"
        )

    def _floating(self) -> dict[str, Tensor]:
        return {name: buffer for name, buffer in self._model.named_buffers() if buffer.is_floating_point()}


def _same(one: Tensor, other: Tensor) -> bool:
    """Compare two tensors; not-a-number is equal to itself here."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    other = other.detach().to(one.device)
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


class ForeignSteps:
    """Calls `met` before an optimizer that is not `own` steps on any of these parameters, while it lives.

    Args:
        own: optimizer -> whether it is the diff's.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        own: Callable[[torch.optim.Optimizer], bool],
        met: Callable[[], None],
    ):
        self._parameters = {id(parameter) for parameter in parameters}
        self._own, self._met = own, met
        self._known: weakref.WeakKeyDictionary[torch.optim.Optimizer, bool] = weakref.WeakKeyDictionary()
        watch_steps(self)

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Call `met` where the optimizer is another one with any of the parameters."""
        if optimizer not in self._known:
            held = (
                id(p) in self._parameters
                for group in optimizer.param_groups
                for p in group["params"]
                if p.requires_grad
            )
            self._known[optimizer] = not self._own(optimizer) and any(held)
        if self._known[optimizer]:
            self._met()

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Do nothing."""
