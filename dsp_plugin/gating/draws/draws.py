"""A drawn sample of the gates, and how its gradient finds the scores.

Notation: N gates in all, h of one block.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from .checkpoints import top_hooks


class Draw:
    """Gates that blocks are handed together.

    Attributes:
        parts: [h] (or [B, h]) of every block; None where all its heads are open.
        asked: blocks that have been handed theirs outside `override`, one bit a position.
        spent: whether a gradient has come back through them.
    """

    def __init__(self, parts: Sequence[Tensor | None]):
        self.parts = list(parts)
        self.asked = 0
        self.spent = False

    def same_as(self, other: Draw) -> bool:
        """Return whether the gates have the same values."""
        pairs = zip(self.parts, other.parts)
        return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def drawn(
    sample: Callable[[], Tensor],
    module: nn.Module,
    split: Callable[[Tensor], list[Tensor]],
    on_gradient: Callable[[], None],
    watched: bool = False,
) -> Draw:
    """Draw gates, whatever surrounds it: no gradients, inference mode, a checkpoint.

    Backward passes may go through the gates as often as they like (those of parts of a model that share them,
    those of a reentrant checkpoint): each goes on to the scores at once.

    Args:
        sample: gives gates [N]; differentiable in the parameters of `module`.
        split: [N] -> [h] of every block.
        on_gradient: called whenever a gradient comes back.
        watched: call it even if the gates depend on nothing that learns.
    """
    # What autograd keeps of the sample is no business of the checkpoint around it, which would have to draw
    # again to get it back: the gates are handed out again instead.
    hidden: AbstractContextManager[Any] = (
        nullcontext() if top_hooks(True) is None else saved_tensors_hooks(Tensor.detach, _unchanged)
    )
    with torch.inference_mode(False), torch.enable_grad(), hidden:
        parameters, views = _learnt(module), []
        with _in_place_of(parameters, views):
            inner = sample()
        draw: list[Any] = []  # a weak reference, once there is something to refer to

        def gradient_came(*_: Any) -> None:
            made = draw[0]()
            if made is not None:
                made.spent = True
            on_gradient()

        gates = inner
        if inner.requires_grad:
            source = (inner, views, gradient_came)
            gates = _Outlet.apply(inner.detach(), source, *(p for _, _, p in parameters))
        elif watched:
            gates = inner.detach().requires_grad_()
            gates.register_hook(gradient_came)
        made = Draw(split(gates))
    draw.append(weakref.ref(made))
    return made


def _unchanged(saved: Tensor) -> Tensor:
    return saved


Place = tuple[dict[str, Any], str, Tensor]


def _learnt(module: nn.Module) -> list[Place]:
    """List (a module's parameters, a name in them, the parameter) for every parameter that learns."""
    return [
        (m._parameters, n, p)
        for m in module.modules()
        for n, p in m._parameters.items()
        if p is not None and p.requires_grad
    ]


@contextmanager
def _in_place_of(parameters: list[Place], views: list[Tensor]) -> Iterator[None]:
    """Let the module see views of its parameters, which are put into `views`.

    A gradient of a parameter itself would run the hooks that somebody has registered on it, and so twice.
    """
    views += [parameter.view_as(parameter) for _, _, parameter in parameters]
    try:
        for (own, name, _), view in zip(parameters, views):
            own[name] = view
        yield
    finally:
        for own, name, parameter in parameters:
            own[name] = parameter


class _Outlet(torch.autograd.Function):
    """Hands on drawn gates; a backward pass runs through the sample's own graph and leaves it as it is."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, source: tuple[Tensor, list[Tensor], Callable[[], None]], *parameters: Tensor
    ) -> Tensor:
        ctx.source = source
        return gates.view_as(gates)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inner, views, gradient_came = ctx.source
        gradient_came()
        options = {"retain_graph": True, "create_graph": torch.is_grad_enabled(), "allow_unused": True}
        grads = torch.autograd.grad(inner, views, grad, **options)
        return None, None, *grads
