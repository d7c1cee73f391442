"""What a model with deltas knows of itself: its base, its parts in their order, and which are put on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from ...artefacts.base import Base
from ...delta.stages import METHODS

_ATTRIBUTE = "dsp_delta"


class MethodPart(Protocol):
    """One method's tensors, and how they go into a model and out of it.

    Attributes:
        method: its name. settings: how it was made, plain JSON.
    """

    method: str
    settings: dict[str, Any]

    def put(self, model: nn.Module) -> None:
        """Put it into the model; what the model had there stays with one of both."""

    def take(self, model: nn.Module) -> None:
        """Take it out; the model is as it was before `put`, bit for bit."""

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """List what is trained of it."""

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """Return what a file has of it, see delta/parts.py."""


@dataclass
class Delta:
    """The state of a model with deltas, beside their modules.

    Attributes:
        base: identity of the model before, its task head left out.
        parts: by method, in the order in which they are put on.
        stages: method -> the stage that it is of, from 1.
        off: the methods that are taken off.
        task_head: names of the parameters that are trained dense, by the base's names.
        trains_task_head: whether the last stage does.
        template, mapping: of the file that it was loaded from.
        config: of that file, without what every writing notes anew.
    """

    base: Base
    parts: dict[str, MethodPart] = field(default_factory=dict)
    stages: dict[str, int] = field(default_factory=dict)
    off: set[str] = field(default_factory=set)
    task_head: list[str] = field(default_factory=list)
    trains_task_head: bool = True
    template: str | None = None
    mapping: dict[str, str] | None = None
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def stage(self) -> int:
        """The number of the last stage; 0 before any."""
        return max(self.stages.values(), default=0)

    @property
    def on(self) -> list[str]:
        """The methods that are put on."""
        return [method for method in self.parts if method not in self.off]


# Biases first: they are parameters of the plain layers. What stands around a matrix comes last.
_ORDER = ("bias", "diff", "lora", "dsee", "adapter", "prompt")
assert set(_ORDER) == set(METHODS)


def delta_of(model: nn.Module) -> Delta:
    """Return the state of a model with deltas.

    Raises:
        ValueError: it has none.
    """
    state = vars(model).get(_ATTRIBUTE)
    if state is None:
        raise ValueError(f"{type(model).__name__} has no deltas: add_delta or load_delta first")
    return state


def has_delta(model: nn.Module) -> bool:
    """Return whether a model has deltas."""
    return _ATTRIBUTE in vars(model)


def set_delta(model: nn.Module, state: Delta | None) -> None:
    """Let a model have this state; None to forget it."""
    if state is None:
        vars(model).pop(_ATTRIBUTE, None)
    else:
        vars(model)[_ATTRIBUTE] = state


def put_on(model: nn.Module, state: Delta) -> None:
    """Put on all parts but those that are off, on a bare model."""
    for method in _ORDER:
        if method in state.parts and method not in state.off:
            state.parts[method].put(model)


def take_off(model: nn.Module, state: Delta) -> None:
    """Take off all parts that are on; the model is the base again, but for its task head."""
    for method in reversed(_ORDER):
        if method in state.parts and method not in state.off:
            state.parts[method].take(model)


@contextmanager
def bare(model: nn.Module) -> Iterator[None]:
    """Let a model be its base for the block, but for its task head."""
    state = vars(model).get(_ATTRIBUTE)
    if state is None:
        yield
        return
    take_off(model, state)
    try:
        yield
    finally:
        put_on(model, state)


def set_trainable(model: nn.Module) -> None:
    """Let the parts of the last stage that are on be trained, the task head where it is, and nothing else."""
    state = delta_of(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for method, part in state.parts.items():
        trained = state.stages[method] == state.stage and method not in state.off
        for parameter in part.parameters(model):
            parameter.requires_grad_(trained)
    if state.trains_task_head:
        names = dict(model.named_parameters())
        for name in state.task_head:
            names[name].requires_grad_(True)
