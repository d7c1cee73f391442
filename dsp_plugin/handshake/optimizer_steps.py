"""Watching the steps of all torch optimizers, whoever makes them, with no help from the host.

torch has one hook for the steps of all optimizers. Watchers are held weakly, and called in their order.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any, Protocol

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

_watchers: weakref.WeakValueDictionary[int, StepWatcher] = weakref.WeakValueDictionary()
_numbers = itertools.count()


class HandshakeError(ValueError):
    """Raised where a half of a method that lives in the host is missing; says which, and what to do."""


class StepWatcher(Protocol):
    """Something that is called at every optimizer's step."""

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Called before an optimizer steps. A `HandshakeError` from here keeps it from stepping."""

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Called after an optimizer has stepped."""


def watch_steps(watcher: StepWatcher) -> None:
    """Tell `watcher` of every step from now on, for as long as it lives."""
    _watchers[next(_numbers)] = watcher


def _before(optimizer: torch.optim.Optimizer, args: Any, kwargs: dict[str, Any]) -> None:
    for watcher in list(_watchers.values()):
        watcher.before_step(optimizer)


def _after(optimizer: torch.optim.Optimizer, args: Any, kwargs: dict[str, Any]) -> None:
    for watcher in list(_watchers.values()):
        watcher.after_step(optimizer)


register_optimizer_step_pre_hook(_before)
register_optimizer_step_post_hook(_after)
