"""Hands every attention block its gates, so that blocks know nothing of how heads are chosen."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .draws.checkpoints import backward_number, checkpoints_here, top_hooks
from .draws.draws import Draw, drawn
from .draws.passes import Passes
from .draws.replays import BEGIN, Handed, Here, Replays, Unknown
from .gates import HeadGates
from .handshake.handshake import Handshake
from .head_map import HeadMap


class Switchboard(nn.Module):
    """Stands between one `HeadGates` and the attention blocks of one model.

    In training every forward pass has a draw of its own: `with forward_pass(model)` around it. Passes nest,
    and the outermost one draws. Parts that are called by themselves, outside any pass, share a draw until one
    comes again. What activation checkpointing computes again sees the gates it saw the first time, whichever
    pass that was. In evaluation the blocks get the deployed mask `keep()`, worked out once per switch to
    `eval()`, not once a block and decoding step.

    Its `handshake` watches that the method's other halves are there: optimizer, penalty, number of updates.

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
        # blocks that have been handed drawn gates where gradients are kept, one bit a position
        self.asked = 0
        self._mask: Draw | None = None
        # parts of the mask, while it is what blocks get in evaluation
        self._fixed: list[Tensor | None] | None = None
        self._override: Draw | None = None
        self._last: Draw | None = None
        self._passes = Passes()
        self._replays = Replays()
        self.handshake = Handshake()
        self.handshake.watch_board(self)
        self.register_load_state_dict_post_hook(_forget)  # not a lambda: models are pickled

    def set_num_updates(self, num_updates: int) -> None:
        """Take note of the number of updates made so far, and pass it on to the gates."""
        self.num_updates = num_updates
        self.gates.set_num_updates(num_updates)

    def begin_update(self) -> bool:
        """Let the gates do, once, what is due before an update; returns whether they have moved scores.

        Whoever draws or asks for the penalty in training comes by it. A host that measures something for it,
        or keeps copies of the scores, calls it first.
        """
        begin = getattr(self.gates, "begin_update", None)
        if begin is None or not self.pruning or not begin(self.num_updates):
            return False
        self._mask = self._fixed = None
        return True

    @property
    def pruning(self) -> bool:
        """True where the method is at work: the warm-up is over."""
        return self.num_updates >= self.warmup_updates

    def penalty(self) -> Tensor:
        """Return what the method adds to the loss, a scalar; 0 during the warm-up."""
        if self.training:
            self.begin_update()
        penalty = self.gates.penalty()
        penalty = penalty if self.pruning else 0.0 * penalty
        self.handshake.penalty_given(penalty)
        return penalty

    def metrics(self) -> dict[str, float | Tensor]:
        """Return the method's figures for the log; during the warm-up all heads are open."""
        if self.pruning:
            return self.gates.metrics()
        return {"heads_open": float(self.head_map.num_heads)}

    def draw(self) -> None:
        """Draw gates for what is called from now on outside a forward pass of the whole model.

        They hold until a gradient has come back through them. In evaluation or `override` nothing is done.
        """
        if self.training and self._override is None:
            if top_hooks(True) is not None and checkpoints_here().again is not None:
                self._draw_in_vain()
            else:
                self._passes.use_outside(self._sample())

    def begin_forward(self, module: nn.Module, whole: bool = True) -> None:
        """Begin a forward pass of `module`: until `end_forward` it and all it calls have gates of their own.

        Args:
            module: the model, or a part of it.
            whole: all blocks are in it. Parts that are called one by one share gates until one comes again.

        Raises:
            HandshakeError: it is computed again for a backward pass, with which gates at first is not known.
        """
        self.handshake.watch_model(module)
        sample = self._sample if self.training and self._override is None else None
        if self._never_recomputed():
            if self.training:
                self._passes.enter(module, whole, sample)
            return
        here = self._replays.here(BEGIN, self._device(), self._maybe_reentrant())
        handed = self._handed(here, BEGIN)
        if handed is None:
            if self.training and backward_number() != -1 and self._replays.begun():
                self._refuse(BEGIN)
            draw = self._passes.enter(module, whole, sample)
            self._replays.note(here, Handed(BEGIN, draw, draw is not None))
        elif here.around.again is None:
            self._passes.enter_again(module, handed.draw)

    def end_forward(self) -> None:
        """End the pass that began last."""
        if top_hooks(True) is None or checkpoints_here().again is None:
            self._passes.leave()

    @contextmanager
    def forward_pass(self, model: nn.Module) -> Iterator[None]:
        """Open one forward pass of the whole model, for the time of the block."""
        self.begin_forward(model)
        try:
            yield
        finally:
            self.end_forward()

    def block_gates(self, position: int) -> Tensor | None:
        """Return the gates [h] (or [B, h], one row an example) of the block at `position` of the head map.

        None means that all its heads are open, which spares the multiplication.

        Raises:
            HandshakeError: it is computed again for a backward pass, with which gates at first is not known.
        """
        fixed = self._fixed
        if fixed is not None and not self.training and top_hooks(True) is None and backward_number() == -1:
            # every block asks at every decoding step: nothing is done here that can be spared
            return fixed[position]
        if self._never_recomputed():
            return self._gates(position)[0].parts[position]
        here = self._replays.here(position, self._device(), self._maybe_reentrant())
        handed = self._handed(here, position)
        if handed is None:
            if self.training and backward_number() != -1 and not self._passes.inside():
                self._refuse(position)
            handed = Handed(position, *self._gates(position))
            self._replays.note(here, handed)
        elif torch.is_grad_enabled():
            self.asked |= handed.draw.asked & 1 << position
        return handed.draw.parts[position]

    def drawn(self, position: int) -> Tensor | None:
        """Return the gates of a block in the last draw, to look at."""
        return self._last.parts[position]

    def stepped(self) -> None:
        """Forget the mask: an optimizer has moved the model's weights, or the scores."""
        self._mask = self._fixed = None
        self._replays.stepped()

    def _never_recomputed(self) -> bool:
        """Return whether what is asked here cannot be asked again by a recomputation of a checkpoint."""
        return top_hooks(True) is None and backward_number() == -1 and not self._maybe_reentrant()

    def _maybe_reentrant(self) -> bool:
        """Return whether this may be inside a reentrant checkpoint, whose forward keeps no gradients."""
        return self.training and not torch.is_grad_enabled()

    def _gates(self, position: int) -> tuple[Draw, bool]:
        """Return the gates for whoever asks now, and whether they were drawn just then."""
        if self._override is not None:
            return self._override, False
        if not self.training:
            if self._mask is None:
                masks = self.head_map.split(self.gates.keep())
                self._mask = Draw([None if bool(mask.all()) else mask.float() for mask in masks])
            self._fixed = self._mask.parts
            return self._mask, False
        draw, made = self._passes.draw_of(position, self._sample)
        draw.asked |= 1 << position
        if torch.is_grad_enabled():
            self.asked |= 1 << position
        return draw, made

    def _sample(self) -> Draw:
        me = weakref.ref(self)

        def sample() -> Tensor:
            gates = self.gates.sample()
            # parameters that get no gradient at all would stop data-parallel training: they get zeros
            return gates if self.pruning else 1.0 + 0.0 * gates

        def gradient_came() -> None:
            if me() is not None:
                me().handshake.gradient_came()

        self.begin_update()
        watched = getattr(self.gates, "decided", None) is False
        self._last = drawn(sample, self.gates, self.head_map.split, gradient_came, watched)
        return self._last

    def _handed(self, here: Here, position: int) -> Handed | None:
        """Return what was handed out the first time, if this is a recomputation."""
        try:
            handed = self._replays.again(here, position)
        except Unknown:
            self._refuse(position)
        if handed is not None and handed.sampled:
            self._draw_in_vain()
        return handed

    @torch.no_grad()
    def _draw_in_vain(self) -> None:
        """Use up the random numbers of a draw, so that dropout after it finds those of the first time."""
        self.gates.sample()

    def _device(self) -> torch.device:
        return self.gates.scores.device

    def _refuse(self, position: int) -> None:
        name = "the model" if position == BEGIN else self.head_map.blocks[position].name
        self.handshake.refuse(
            "draw",
            f"{name} is computed again for a backward pass, and with which gates it was the first time "
            "is not known",
        )

    @contextmanager
    def override(self, gates: Tensor) -> Iterator[None]:
        """Use exactly these gates, [N] or [B, N], in training and evaluation, gradients and all.

        For importance scores, which need the gradient of every example's own gates in `eval()` mode.
        """
        outer, self._override, self._fixed = self._override, Draw(self.head_map.split(gates)), None
        self.handshake.gradient_came()  # its gradient is for whoever overrides
        try:
            yield
        finally:
            self._override = outer

    def _forget(self) -> None:
        self._mask = self._fixed = None
        self._passes = Passes()

    def train(self, mode: bool = True) -> Switchboard:
        """Switch between training and evaluation; the mask is worked out anew when it is asked for next."""
        self._forget()
        return super().train(mode)

    def _apply(self, fn, *args, **kwargs):
        self._forget()
        return super()._apply(fn, *args, **kwargs)

    def __getstate__(self):
        # no draws: a sample is part of an autograd graph, which cannot be copied or pickled
        return {name: value for name, value in self.__dict__.items() if name not in _NOT_COPIED}

    def __setstate__(self, state):
        super().__setstate__(state)
        self._forget()
        self._override = self._last = None
        self._replays = Replays()
        self.handshake.watch_board(self)


_NOT_COPIED = ("_mask", "_fixed", "_override", "_last", "_passes", "_replays")


def _forget(board: Switchboard, keys: Any) -> None:
    board._forget()
