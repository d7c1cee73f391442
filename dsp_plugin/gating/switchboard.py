"""Hands every attention block its gates, so that blocks know nothing of how heads are chosen."""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional

import torch
from torch import Tensor, nn

from .gates import HeadGates
from .handshake import Handshake
from .head_map import HeadMap


class Switchboard(nn.Module):
    """Between one `HeadGates` and the attention blocks of one model.

    In training the host draws once a forward pass, outside any checkpointed layer, so that a recomputed layer
    sees the gates it saw the first time: `with forward_pass(model)` around the pass, or `draw()` before it. In
    evaluation the blocks get the deployed mask `keep()`, worked out once per switch to `eval()`, not once a block
    and decoding step.

    Its `handshake` watches that the rest of the method is there: the optimizer, the penalty, the number of updates.

    Args:
        head_map: the model's heads, N in all.
        gates: the method.
        warmup_updates: until so many updates all heads are open and the method learns nothing.

    Raises:
        ValueError: the two disagree about N.
    """

    def __init__(self, head_map: HeadMap, gates: HeadGates, warmup_updates: int = 0):
        super().__init__()
        if gates.num_heads != head_map.num_heads:
            raise ValueError(f"gates for {gates.num_heads} heads on a model with {head_map.num_heads}")
        self.head_map = head_map
        self.gates = gates
        self.warmup_updates = warmup_updates
        self.num_updates = 0
        self._current: Optional[List[Optional[Tensor]]] = None
        self._override: Optional[List[Tensor]] = None
        self._draws = 0
        self._depth = 0  # parts of the model that are in a forward pass, one inside another
        self._asked = 0  # blocks that have asked for their part of this draw, one bit a position
        self._wary = False  # whether whoever asks may be in another forward pass than this draw's
        self._spent = False  # whether a gradient has come back through this draw
        self.handshake = Handshake()
        self.handshake.of(self)
        self.register_load_state_dict_post_hook(_forget)  # not a lambda: models are pickled

    def set_num_updates(self, num_updates: int) -> None:
        """Updates made so far; the gates are told, too."""
        self.num_updates = num_updates
        self.gates.set_num_updates(num_updates)

    @property
    def pruning(self) -> bool:
        """Whether the method is at work: the warm-up is over."""
        return self.num_updates >= self.warmup_updates

    def penalty(self) -> Tensor:
        """What the method adds to the loss, a scalar; nothing during the warm-up."""
        penalty = self.gates.penalty()
        penalty = penalty if self.pruning else 0.0 * penalty
        self.handshake.penalty_given(penalty)
        return penalty

    def metrics(self) -> Dict[str, float | Tensor]:
        """The method's figures for the log, as they are in force."""
        if self.pruning:
            return self.gates.metrics()
        return {"heads_open": float(self.head_map.num_heads)}

    def draw(self) -> None:
        """Draw this forward pass's gates. Nothing to do in evaluation or under `override`."""
        if self.training and self._override is None:
            gates = self.gates.sample()
            if not self.pruning:
                # parameters that get no gradient at all would stop data-parallel training: they get zeros
                gates = 1.0 + 0.0 * gates
            self._draws += 1
            self._asked, self._wary, self._spent = 0, False, False
            if gates.requires_grad:
                gates.register_hook(_note_gradient(self, self._draws))
            self._current = list(self.head_map.split(gates))

    def begin_forward(self, model: nn.Module) -> None:
        """A forward pass of the whole model begins: its gates are drawn, and are its own until `end_forward`."""
        self.handshake.trains(model)
        self._depth += 1
        if self._depth == 1:
            self.draw()

    def end_forward(self) -> None:
        """It is over: a block that asks from now on, outside a backward pass, is in another one, which has drawn nothing.

        Once and before the backward pass it may, for whoever looks at the gates that were drawn.
        """
        self._depth -= 1
        if self._depth == 0:
            self._asked, self._wary = 0, True

    @contextmanager
    def forward_pass(self, model: nn.Module) -> Iterator[None]:
        """Around one forward pass of the whole model."""
        self.begin_forward(model)
        try:
            yield
        finally:
            self.end_forward()

    def block_gates(self, position: int) -> Optional[Tensor]:
        """Gates [h] (or [B, h], one row an example) of the block at `position` of the head map.

        None means that all its heads are open, which spares the multiplication.

        Raises:
            HandshakeError: in training, of gates that were drawn for another forward pass.
        """
        if self._override is not None:
            return self._override[position]
        if self._current is None:
            if self.training:
                self.draw()
                self._wary = True  # nobody has said that a forward pass begins
            else:
                self._current = [
                    None if bool(mask.all()) else mask.float()
                    for mask in self.head_map.split(self.gates.keep())
                ]
        elif self._wary and self.training:
            self._check_draw(position)
        self._asked |= 1 << position
        return self._current[position]

    def _check_draw(self, position: int) -> None:
        """Refuse gates that were drawn for another forward pass; not to a layer that is recomputed in a backward pass."""
        if (self._spent or self._asked >> position & 1) and torch.is_grad_enabled() and not _in_backward():
            name = self.head_map.blocks[position].name
            self.handshake.refuse(
                "draw", f"the gates at hand were drawn for another forward pass of training, and {name} asks for them again"
            )

    @contextmanager
    def override(self, gates: Tensor) -> Iterator[None]:
        """Use exactly these gates, [N] or [B, N], in training and evaluation, gradients and all.

        For importance scores, which need the gradient of every example's own gates in `eval()` mode.
        """
        outer, self._override = self._override, self.head_map.split(gates)
        self.handshake.gradient_came()  # its gradient is for whoever overrides
        try:
            yield
        finally:
            self._override = outer

    def _forget(self) -> None:
        self._current = None
        self._wary = False

    def train(self, mode: bool = True) -> "Switchboard":
        self._forget()
        return super().train(mode)

    def _apply(self, fn, *args, **kwargs):
        self._forget()
        return super()._apply(fn, *args, **kwargs)

    def __getstate__(self):
        # a drawn sample is part of an autograd graph, which cannot be copied or pickled
        return {**self.__dict__, "_current": None, "_override": None, "_wary": False}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.handshake.of(self)


def _forget(board: Switchboard, keys: Any) -> None:
    board._forget()


def _note_gradient(board: Switchboard, draw: int) -> Callable[[Tensor], None]:
    """A hook for the gates of this draw. It does not keep the switchboard alive, which keeps the gates."""
    seen = weakref.ref(board)

    def note(_: Tensor) -> None:
        board = seen()
        if board is not None:
            board.handshake.gradient_came()
            if board._draws == draw:
                board._spent = board._wary = True

    return note


def _in_backward() -> bool:
    """Whether autograd is running, as it is around a checkpointed layer that is computed again."""
    task = getattr(torch._C, "_current_graph_task_id", None)
    return task is None or task() != -1
