"""Whether a pruning method is whole: half of it lives in its host, and nothing works if that half is missing.

A method asks of whoever trains it that its scores are in an optimizer, with the rate and the decay they are to have; that
its penalty is in the loss; that the number of updates is told, where it has a schedule; and that forward passes go through
its gates. Each half is looked for at every optimizer step, and on the second one without it the training is refused.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Mapping, Optional, Set

import torch
from torch import Tensor, nn

from .steps import HandshakeError, watch_steps

__all__ = ["Handshake", "HandshakeError"]

PATIENCE = 2  # updates without one of its halves that a method bears at most, the refused one included
# Once gradients have come through the gates, updates without any: LayerDrop may leave out all layers now and then.
PATIENCE_LATER = 100

# What to do about each half, in words that hold anywhere; a shell may say it in those of its host.
ADVICE = {
    "optimizer": "give the optimizer all parameters of the model that learn, the scores among them",
    "rate": "put the scores into a parameter group of their own that has these, and keep schedules away from it",
    "penalty": "add the switchboard's penalty() to the loss of every update",
    "updates": "call the switchboard's set_num_updates() with the number of updates made before every one",
    "forward": "call the model that carries the gates, in training mode, with an attention that knows of them",
    "ranking": "install a ranking before training",
    "draw": "call the whole model, not a part of it, or draw() before every pass through the part",
}

_MARK = "optim_overrides"  # fairseq's float32 copies of parameters share this attribute with what they are copies of


@dataclass
class _Held:
    """What one optimizer holds of a model, and what it had seen of the method at its last step."""

    sizes: List[int]
    scores: List[int] = field(default_factory=list)  # numbers of the groups with scores in them
    alone: bool = True  # nothing else is in these groups
    weights: bool = False
    checked: bool = False  # the step that is being made
    steps: int = 0
    updates: Any = None
    penalties: int = 0
    passes: int = 0
    missing: Dict[str, int] = field(default_factory=dict)

    def miss(self, half: str, missed: bool, patience: int = PATIENCE) -> bool:
        """Count steps in a row without a half; whether patience is at its end."""
        self.missing[half] = self.missing.get(half, 0) + 1 if missed else 0
        return self.missing[half] >= patience


class Handshake:
    """Watches that the halves of one switchboard's method are there. It belongs to the switchboard, and is copied with it.

    Attributes:
        advice: half -> what to do where it is missing (see `ADVICE`).
        lr: the constant learning rate that the scores are to have; None: any.
        weight_decay: the decay they are to have; None: any.
    """

    def __init__(self) -> None:
        self.advice: Dict[str, str] = dict(ADVICE)
        self.lr: Optional[float] = None
        self.weight_decay: Optional[float] = None
        self._begin()

    def _begin(self) -> None:
        self._board: Any = lambda: None
        self._model: Any = lambda: None
        self._held: "weakref.WeakKeyDictionary[torch.optim.Optimizer, _Held]" = weakref.WeakKeyDictionary()
        self._kept: "weakref.WeakSet[torch.optim.Optimizer]" = weakref.WeakSet()
        self._stepped = False  # whether the scores were in an optimizer that stepped
        self._penalties = 0  # gradients that have come back through the penalty
        self._passes = 0  # gradients that have come back through drawn gates
        watch_steps(self)

    def __getstate__(self) -> Dict[str, Any]:
        return {"advice": self.advice, "lr": self.lr, "weight_decay": self.weight_decay}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    # ---- what it is told ----

    def of(self, board: nn.Module) -> None:
        """The switchboard it belongs to."""
        self._board = weakref.ref(board)

    def trains(self, model: nn.Module) -> None:
        """The model whose heads are gated: an optimizer that moves its weights, and never the scores, is refused."""
        if self._model() is None:
            self._model = weakref.ref(model)

    @property
    def model(self) -> Optional[nn.Module]:
        """The model whose heads are gated, once it is known."""
        return self._model()

    def wants(
        self,
        lr: Optional[float] = None,
        weight_decay: Optional[float] = None,
        advice: Optional[Mapping[str, str]] = None,
        keep: Optional[torch.optim.Optimizer] = None,
    ) -> None:
        """Declare what the scores' parameter group is to have.

        Args:
            advice: words of the host (see `ADVICE`).
            keep: an optimizer that was made so: whoever writes into its scores' group, these are put back before its steps.
                Any other is refused.
        """
        self.lr, self.weight_decay = lr, weight_decay
        self.advice.update(advice or {})
        if keep is not None:
            self._kept.add(keep)

    def penalty_given(self, penalty: Tensor) -> None:
        """The host was given this penalty; it has taken it in once a gradient comes back."""
        if penalty.requires_grad:
            me = weakref.ref(self)

            def came(_: Tensor) -> None:
                if me() is not None:
                    me()._penalties += 1

            penalty.register_hook(came)

    def gradient_came(self) -> None:
        """A gradient has come back through gates that were drawn, or somebody else's that are used in their place."""
        self._passes += 1

    def refuse(self, half: str, why: str) -> None:
        """Raises: HandshakeError."""
        raise HandshakeError(f"{why}: {self.advice[half]}")

    # ---- what it looks at ----

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        board = self._board()
        if board is None:
            return
        held = self._look(optimizer, board)
        held.checked = False
        if held.scores:
            self._stepped = True
            self._check_rate(optimizer, held)
        if (held.scores or held.weights) and _has_gradients(optimizer.param_groups):
            self._check(held, board)

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        board, held = self._board(), self._held.get(optimizer)
        if board is None or held is None or not (held.scores or held.weights):
            return
        if not held.checked and _has_gradients(optimizer.param_groups):
            self._check(held, board)  # an optimizer that calls the model itself (LBFGS) comes by its gradients in its step
        if board.pruning and _has_gradients(optimizer.param_groups[number] for number in held.scores):
            note = getattr(board.gates, "note_update", None)
            if note is not None:
                note()

    def _check(self, held: _Held, board: nn.Module) -> None:
        held.checked = True
        if held.scores:
            self._check_penalty(held, board)
            self._check_updates(held, board)
            self._check_passes(held, board)
        else:
            self._check_scores(held, board)
        held.steps += 1

    def _look(self, optimizer: torch.optim.Optimizer, board: nn.Module) -> _Held:
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        held = self._held.get(optimizer)
        if held is None or held.sizes != sizes:
            held = self._held[optimizer] = self._holdings(optimizer, board, sizes)
        return held

    def _holdings(self, optimizer: torch.optim.Optimizer, board: nn.Module, sizes: List[int]) -> _Held:
        learnt = list(board.gates.parameters())
        scores: Set[int] = {id(p) for p in learnt if p.requires_grad}
        marks: Set[int] = {id(getattr(p, _MARK)) for p in learnt if p.requires_grad and hasattr(p, _MARK)}
        model = self._model()
        weights = {id(p) for p in model.parameters()} - {id(p) for p in learnt} if model is not None else set()
        held = _Held(sizes)
        for number, group in enumerate(optimizer.param_groups):
            mine = sum(id(p) in scores or (bool(marks) and id(getattr(p, _MARK, None)) in marks) for p in group["params"])
            if mine:
                held.scores.append(number)
                held.alone = held.alone and mine == len(group["params"])
            held.weights = held.weights or any(id(p) in weights for p in group["params"])
        return held

    def _check_rate(self, optimizer: torch.optim.Optimizer, held: _Held) -> None:
        wanted = {name: value for name, value in (("lr", self.lr), ("weight_decay", self.weight_decay)) if value is not None}
        for number in held.scores if wanted else ():
            group = optimizer.param_groups[number]
            if held.alone and optimizer in self._kept:
                group.update(wanted)
            has = {name: group.get(name, 0.0) for name in wanted}
            if any(not isinstance(has[name], Tensor) and has[name] != wanted[name] for name in wanted):
                self.refuse("rate", f"the scores of the heads want {_told(wanted)}, and the optimizer gives them {_told(has)}")

    def _check_penalty(self, held: _Held, board: nn.Module) -> None:
        came, held.penalties = self._penalties != held.penalties, self._penalties
        if held.miss("penalty", not came and _has_penalty(board)):
            self.refuse("penalty", f"the method's penalty was in no loss for {PATIENCE} updates, so that nothing closes heads")

    def _check_updates(self, held: _Held, board: nn.Module) -> None:
        told = board.num_updates, getattr(board.gates, "num_updates", None)
        first, before, held.updates = held.steps == 0, held.updates, told
        if first:
            return
        stood = told[0] == before[0] if not board.pruning else told == before and _follows_updates(board)
        if stood:
            self.refuse(
                "updates", f"the method goes by the number of updates, which stood still at {told[0]} for {PATIENCE} updates"
            )

    def _check_passes(self, held: _Held, board: nn.Module) -> None:
        came, held.passes = self._passes != held.passes, self._passes
        patience = PATIENCE_LATER if self._passes else PATIENCE
        if held.miss("forward", not came and board.head_map.num_heads > 0, patience):
            self.refuse(
                "forward", f"no gradient came through the gates of the heads for {patience} updates, so that they learn nothing"
            )

    def _check_scores(self, held: _Held, board: nn.Module) -> None:
        learnt = list(board.gates.parameters())
        if self._stepped or held.steps >= PATIENCE or not learnt:
            return
        frozen = not any(p.requires_grad for p in learnt)
        if not held.miss("optimizer", not frozen or getattr(board.gates, "decided", None) is False):
            return
        done = f"the model was trained for {PATIENCE} updates, and the heads that it keeps are random ones"
        if not getattr(board.gates, "learns", True):
            self.refuse("ranking", f"{done}: nothing has ranked them")
        state = "are frozen, and nothing has trained them" if frozen else "are in no optimizer"
        self.refuse("optimizer", f"{done}: its scores of the heads {state}")


def _has_gradients(groups: Iterable[Dict[str, Any]]) -> bool:
    return any(p.grad is not None for group in groups for p in group["params"])


def _told(settings: Mapping[str, Any]) -> str:
    words = {"lr": "a learning rate of", "weight_decay": "a weight decay of"}
    return " and ".join(f"{words[name]} {float(value):g}" for name, value in settings.items())


def _has_penalty(board: nn.Module) -> bool:
    """Whether the method adds anything at all to the loss."""
    with torch.enable_grad():
        penalty = board.gates.penalty()
    return penalty.requires_grad and float(penalty.detach()) != 0.0


def _follows_updates(board: nn.Module) -> bool:
    """Whether what the method does still changes with the number of updates."""
    asked = getattr(board.gates, "follows_updates", None)
    return asked is not None and asked()
