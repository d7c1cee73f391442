"""Checks that a pruning method is whole: half of it lives in its host, and nothing works without that half.

A method needs its scores in an optimizer, at the rate and with the decay that they are to have; its penalty
in the loss; the number of updates, where it has a schedule; and forward passes that go through its gates.
Each half is looked for at every optimizer step, and on the second step without it the training is refused.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...handshake.optimizer_steps import HandshakeError, watch_steps
from ..draws.checkpoints import backward_number
from .advice import ADVICE, in_words
from .gradient_watch import GradientWatch
from .holdings import Held, has_gradients, held_by_some, holdings, stands_still

__all__ = ["Handshake", "HandshakeError"]

PATIENCE = 2  # updates without one of its halves that a method bears at most, the refused one included
# The same once gradients have come through the gates: LayerDrop may leave out all layers now and then.
PATIENCE_LATER = 100


class Handshake:
    """Watches that all halves of one switchboard's method are there; it is copied with the switchboard.

    Attributes:
        advice: half -> what to do where it is missing (see `ADVICE`).
        lr: the learning rate that the scores are to have, or what returns that of the next update; None: any.
        weight_decay: the decay they are to have; None: any.
    """

    def __init__(self) -> None:
        self.advice: dict[str, str] = dict(ADVICE)
        self.lr: float | Callable[[], float] | None = None
        self.weight_decay: float | None = None
        self._board: Any = lambda: None
        self._model: Any = lambda: None
        self._held: weakref.WeakKeyDictionary[torch.optim.Optimizer, Held] = weakref.WeakKeyDictionary()
        self._restored: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._loaded = False  # whether the scores came from a state before they were trained here
        self._stepped = False  # whether the scores were in an optimizer that stepped
        self._patience = PATIENCE  # until they are
        self._penalties = 0  # gradients that have come back through the penalty
        self._passes = 0  # gradients that have come back through drawn gates
        self._backwards: deque[int] = deque(maxlen=256)  # numbers of the backward passes in which they did
        watch_steps(self)

    def __getstate__(self) -> dict[str, Any]:
        return {"advice": self.advice, "lr": self.lr, "weight_decay": self.weight_decay}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # what else there is belongs to one process and its optimizers
        self.__dict__.update(state)

    # ---- what the host and the switchboard report ----

    def watch_board(self, board: nn.Module) -> None:
        """Watch the method of this switchboard, to which the handshake belongs."""
        self._board = weakref.ref(board)

    def watch_model(self, model: nn.Module) -> None:
        """Refuse optimizers that move the weights of this model, which is gated, and never the scores."""
        if self._model() is None:
            self._model = weakref.ref(model)

    @property
    def model(self) -> nn.Module | None:
        """The model whose heads are gated, once it is known."""
        return self._model()

    def expect(
        self,
        lr: float | Callable[[], float] | None = None,
        weight_decay: float | None = None,
        advice: Mapping[str, str] | None = None,
        restore_in: torch.optim.Optimizer | None = None,
    ) -> None:
        """Declare what the scores' parameter group is to have.

        Args:
            advice: words of the host (see `ADVICE`).
            restore_in: an optimizer that was made so: whoever writes into its scores' group, these are put
                back before its steps. Any other optimizer is refused.
        """
        self.lr, self.weight_decay = lr, weight_decay
        self.advice.update(advice or {})
        if restore_in is not None:
            self._restored.add(restore_in)

    def penalty_given(self, penalty: Tensor) -> None:
        """Note that the host was given this penalty; once a gradient comes back, it is in the loss."""
        if penalty.requires_grad:
            me = weakref.ref(self)

            def count(_: Tensor) -> None:
                if me() is not None:
                    me()._penalties += 1

            penalty.register_hook(count)

    def gradient_came(self) -> None:
        """Note that a gradient has come back through the gates, drawn ones or others in their place."""
        self._passes += 1
        self._backwards.append(backward_number())

    def refuse(self, half: str, why: str) -> None:
        """Raise a HandshakeError that says why, and what to do about this half (see `ADVICE`)."""
        raise HandshakeError(f"{why}: {self.advice[half]}")

    # ---- what is checked at each step ----

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Check, before an optimizer steps, whatever can be seen before.

        Raises:
            HandshakeError: a half of the method is missing; says which, and what to do.
        """
        board = self._board()
        if board is None:
            return
        held = self._look(optimizer, board)
        held.checked = False
        if held.scores:
            self._stepped = True
            self._check_rate(optimizer, held)
        if not held.scores and not held.weights:
            self._check_outsider(optimizer, held, board)
        elif has_gradients(optimizer.param_groups) or (not held.scores and self._passes != held.passes):
            self._check(held, board)
            if held.scores:
                self._check_motion(optimizer, held, board)

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Check the rest after an optimizer's step, and tell the switchboard and the gates of it."""
        board, held = self._board(), self._held.get(optimizer)
        if board is None or held is None or not (held.scores or held.weights):
            return
        if not held.checked and has_gradients(optimizer.param_groups):
            # an optimizer that calls the model itself (LBFGS) comes by its gradients in its step
            self._check(held, board)
        board.stepped()
        groups = (optimizer.param_groups[number] for number in held.scores)
        if board.pruning and has_gradients(group for group in groups if not stands_still(group)):
            note = getattr(board.gates, "note_update", None)
            if note is not None:
                note()

    def _check(self, held: Held, board: nn.Module) -> None:
        held.checked = True
        if held.scores:
            self._check_penalty(held, board)
            self._check_updates(held, board)
            self._check_passes(held, board)
            self._check_blocks(held, board)
        else:
            self._check_scores(held, board)
            held.passes = self._passes
        held.steps += 1

    def _look(self, optimizer: torch.optim.Optimizer, board: nn.Module) -> Held:
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        sizes.append(sum(p.requires_grad for p in board.gates.parameters()))  # somebody may freeze them
        held = self._held.get(optimizer)
        if held is None or held.sizes != sizes:
            held = self._held[optimizer] = holdings(optimizer, board.gates, self._model(), sizes)
        return held

    def _check_rate(self, optimizer: torch.optim.Optimizer, held: Held) -> None:
        wanted = {
            name: value
            for name, value in (
                ("lr", self.lr() if callable(self.lr) else self.lr),
                ("weight_decay", self.weight_decay),
            )
            if value is not None
        }
        for number in held.scores if wanted else ():
            group = optimizer.param_groups[number]
            if held.alone and optimizer in self._restored:
                group.update(wanted)
            has = {name: group.get(name, 0.0) for name in wanted}
            if any(not isinstance(has[name], Tensor) and has[name] != wanted[name] for name in wanted):
                self.refuse(
                    "rate",
                    f"the scores of the heads want {in_words(wanted)}, and the optimizer gives "
                    f"them {in_words(has)}",
                )

    def _check_penalty(self, held: Held, board: nn.Module) -> None:
        came, held.penalties = self._penalties != held.penalties, self._penalties
        if held.miss("penalty", not came and _has_penalty(board), PATIENCE):
            self.refuse(
                "penalty",
                f"the method's penalty was in no loss for {PATIENCE} updates, so that nothing closes heads",
            )

    def _check_updates(self, held: Held, board: nn.Module) -> None:
        now = board.num_updates, getattr(board.gates, "num_updates", None)
        before, held.updates = held.updates, now
        if held.steps == 0:
            return
        stood = now[0] == before[0] if not board.pruning else now == before and _follows_updates(board)
        if stood:
            self.refuse(
                "updates",
                f"the method goes by the number of updates, which stood still at {now[0]} for "
                f"{PATIENCE} updates",
            )

    def _check_passes(self, held: Held, board: nn.Module) -> None:
        came, held.passes = self._passes != held.passes, self._passes
        patience = PATIENCE_LATER if self._passes else PATIENCE
        if held.miss("forward", not came and board.head_map.num_heads > 0, patience):
            self.refuse(
                "forward",
                f"no gradient came through the gates of the heads for {patience} updates, so that "
                "they learn nothing",
            )

    def _check_blocks(self, held: Held, board: nn.Module) -> None:
        if held.steps == 0:
            self._loaded = getattr(board.gates, "decided", None) is None
        if held.steps + 1 != PATIENCE_LATER or not board.asked or self._loaded:
            return
        blocks = enumerate(board.head_map.blocks)
        lost = [block.name for i, block in blocks if block.num_heads and not board.asked >> i & 1]
        if lost:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            self.refuse(
                "blocks",
                f"in {PATIENCE_LATER} updates no forward pass has asked for the gates of {lost[0]}{more}, "
                "whose heads would be kept or removed at random",
            )

    def _check_motion(self, optimizer: torch.optim.Optimizer, held: Held, board: nn.Module) -> None:
        still = all(stands_still(optimizer.param_groups[number]) for number in held.scores)
        undecided = board.pruning and getattr(board.gates, "decided", None) is False
        if held.miss("motion", still and undecided, PATIENCE):
            self.refuse(
                "motion",
                f"the scores of the heads have had a learning rate of 0 for {PATIENCE} "
                "updates, and stay random",
            )

    def _check_outsider(self, optimizer: torch.optim.Optimizer, held: Held, board: nn.Module) -> None:
        """Check an optimizer of weights around the gated model (a task head, a prompt): it trains it, too."""
        if held.unrelated or self._passes == held.passes or not self._untrained(board):
            return
        held.passes = self._passes
        if held.watch is None:
            held.watch = GradientWatch(p for group in optimizer.param_groups for p in group["params"])
            return
        held.watch.end()
        if held.watch.backwards.isdisjoint(self._backwards):
            held.unrelated = True
            return
        held.watch = None  # looked into once more, should this be borne
        if held.miss("optimizer", True, self._patience - 1):  # the first look has taken an update, too
            self._refuse_scores(board)

    def _untrained(self, board: nn.Module) -> bool:
        """Return whether there are scores that no optimizer moves."""
        learnt = list(board.gates.parameters())
        if any(p.requires_grad for p in learnt):
            return not self._stepped
        return bool(learnt) and getattr(board.gates, "decided", None) is False

    def _check_scores(self, held: Held, board: nn.Module) -> None:
        frozen = not any(p.requires_grad for p in board.gates.parameters())
        missed = self._untrained(board) and (frozen or held.steps < self._patience)
        if held.miss("optimizer", missed, self._patience):
            self._refuse_scores(board)

    def _refuse_scores(self, board: nn.Module) -> None:
        frozen = not any(p.requires_grad for p in board.gates.parameters())
        if self._patience == PATIENCE and not frozen and held_by_some(board.gates):
            self._patience = PATIENCE_LATER  # a critic has several updates to one of a generator
            return
        updates = self._patience
        done = f"the model was trained for {updates} updates, and the heads that it keeps are random ones"
        if not getattr(board.gates, "learns", True):
            self.refuse("ranking", f"{done}: nothing has ranked them")
        state = "are in no optimizer" if self._patience == PATIENCE else "are in no optimizer that steps"
        state = "are frozen, and nothing has trained them" if frozen else state
        self.refuse("optimizer", f"{done}: its scores of the heads {state}")


def _has_penalty(board: nn.Module) -> bool:
    """Return whether the method adds anything at all to the loss.

    One whose penalty is 0 only because nobody has added it yet says so by `has_penalty`.
    """
    says = getattr(board.gates, "has_penalty", None)
    if says is not None:
        return says()
    with torch.enable_grad():
        penalty = board.gates.penalty()
    return penalty.requires_grad and float(penalty.detach()) != 0.0


def _follows_updates(board: nn.Module) -> bool:
    """Return whether what the method does still changes with the number of updates."""
    follows = getattr(board.gates, "follows_updates", None)
    return follows is not None and follows()
