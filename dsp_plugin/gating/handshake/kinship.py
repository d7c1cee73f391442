"""Whether weights outside a gated model are trained through it: their gradients come in the backward
passes of its gates.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from ..draws.checkpoints import backward_number


class Kinship:
    """Notes in which backward passes gradients of these parameters arrive, until `end`.

    Attributes:
        backwards: their numbers.
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
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
