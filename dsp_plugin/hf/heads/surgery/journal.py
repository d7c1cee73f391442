"""Changes to a model that are made wholly or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

_PACKAGE = __name__.partition(".")[0] + "."


class Snapshot:
    """A note of all that a model's modules hold: attributes, parameters, buffers, hooks, classes, configs.

    Tensors are noted, not copied, but for buffers, which a forward pass may write into.
    """

    def __init__(self, root: nn.Module):
        self._objects: list[tuple[Any, type, dict[str, Any]]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self._seen: set = set()
        for module in root.modules():
            self._note(module)
            for buffer in module._buffers.values():
                if buffer is not None and not buffer.is_meta:
                    self._buffers.append((buffer, buffer.detach().clone()))

    def _note(self, thing: Any) -> None:
        if id(thing) in self._seen:
            return
        self._seen.add(id(thing))
        self._objects.append((thing, type(thing), dict(vars(thing))))
        for value in vars(thing).values():
            if isinstance(value, (dict, list, set)):
                self._containers.append((value, value.copy()))
            # modules are noted one by one; of other objects surgery and forward passes change only these
            elif not isinstance(value, nn.Module) and hasattr(value, "__dict__"):
                if isinstance(value, PreTrainedConfig) or type(value).__module__.startswith(_PACKAGE):
                    self._note(value)

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back, the same objects as before. Safe to call again."""
        for thing, kind, attributes in self._objects:
            if type(thing) is not kind:
                thing.__class__ = kind
            vars(thing).clear()
            vars(thing).update(attributes)
        for container, content in self._containers:
            if isinstance(container, list):
                container[:] = content
            else:
                container.clear()
                container.update(content)
        for buffer, values in self._buffers:
            if not torch.equal(buffer, values):
                buffer.copy_(values)


@contextmanager
def all_or_nothing(root: nn.Module) -> Iterator[None]:
    """Undo the changes made to a model inside the block if anything is raised there, an interruption too."""
    snapshot = Snapshot(root)
    try:
        yield
    except BaseException:
        _restore(snapshot)
        raise


@contextmanager
def left_as_it_was(root: nn.Module) -> Iterator[None]:
    """Undo the changes made to a model inside the block at its end."""
    snapshot = Snapshot(root)
    try:
        yield
    finally:
        _restore(snapshot)


def _restore(snapshot: Snapshot) -> None:
    interrupted = None
    while True:  # a second interruption must not leave half a model
        try:
            snapshot.restore()
            break
        except KeyboardInterrupt as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted
