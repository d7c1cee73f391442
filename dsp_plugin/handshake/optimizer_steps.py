"""Who wants to know of optimizer steps: of any torch optimizer, whoever makes them, with no help from the
host.

torch has one hook for the steps of all optimizers. Watchers are held weakly, and asked in the order they
came.
"""

from __future__ import annotations

import itertools
import weakref
from importlib import import_module
from typing import Any, Protocol

import torch

_watchers: weakref.WeakValueDictionary[int, StepWatcher] = weakref.WeakValueDictionary()
_numbers = itertools.count()


class HandshakeError(ValueError):
    """A method is not whole: a half of it that lives in the host is missing. Says which, and what to do."""


class StepWatcher(Protocol):
    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer is about to step. May raise a `HandshakeError`: then it does not."""

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """It has."""


def watch_steps(watcher: StepWatcher) -> None:
    """Tell `watcher` of every step from now on, for as long as it lives."""
    _watchers[next(_numbers)] = watcher


def _before(optimizer: torch.optim.Optimizer, args: Any, kwargs: dict[str, Any]) -> None:
    for watcher in list(_watchers.values()):
        watcher.before_step(optimizer)


def _after(optimizer: torch.optim.Optimizer, args: Any, kwargs: dict[str, Any]) -> None:
    for watcher in list(_watchers.values()):
        watcher.after_step(optimizer)


# torch before 2.1 has no such hooks: methods are not watched there
for _name, _told in (
    ("register_optimizer_step_pre_hook", _before),
    ("register_optimizer_step_post_hook", _after),
):
    _register = getattr(import_module("torch.optim.optimizer"), _name, None)
    if _register is not None:
        _register(_told)
