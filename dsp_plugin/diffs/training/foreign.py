"""Steps of other optimizers on weights that a diff's own optimizer writes: they would be lost, or spoil
the diff.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ...handshake.optimizer_steps import watch_steps


class ForeignSteps:
    """Calls `met` before an optimizer that is not `own` steps on any of these parameters; for as long as it
    is kept.

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
        pass
