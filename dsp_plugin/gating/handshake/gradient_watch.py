"""Finds out whether weights outside a gated model are trained through it, by their backward passes."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from ..draws.checkpoints import backward_number


class GradientWatch:
    """Notes in which backward passes gradients of these parameters arrive, until `end`.

    Weights that are trained through a gated model get theirs in the backward passes of its gates.

    Attributes:
        backwards: the passes' numbers (see `backward_number`).
    """

    def __init__(self, parameters: Iterable[Tensor]):
        self.backwards: set[int] = set()
        note = self.backwards.add
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(lambda _: note(backward_number()))
            for parameter in parameters
            if parameter.requires_grad and parameter.is_leaf
        ]

    def end(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
