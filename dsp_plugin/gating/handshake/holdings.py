"""What an optimizer holds of a gated model, and what it had seen of the method at its last step."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .gradient_watch import GradientWatch

# fairseq's float32 copies of parameters share this attribute with what they are copies of
_MARK = "optim_overrides"


@dataclass
class Held:
    """The parts of a model that one optimizer holds, and what it had seen of the method at its last step.

    Attributes:
        sizes: of its groups, and how many of the gates' parameters learn: looked at again if they change.
    """

    sizes: list[int]
    scores: list[int] = field(default_factory=list)  # numbers of the groups with scores in them
    alone: bool = True  # nothing else is in these groups
    weights: bool = False
    checked: bool = False  # the step that is being made
    steps: int = 0
    updates: Any = None
    penalties: int = 0
    passes: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    watch: GradientWatch | None = None  # while it is looked into, where it holds nothing of the model
    unrelated: bool = False  # it holds nothing of the model, and was found to train nothing through it

    def miss(self, half: str, missed: bool, patience: int) -> bool:
        """Count steps in a row without a half, and return whether patience is at its end."""
        self.missing[half] = self.missing.get(half, 0) + 1 if missed else 0
        return self.missing[half] >= patience


def holdings(
    optimizer: torch.optim.Optimizer, gates: nn.Module, model: nn.Module | None, sizes: list[int]
) -> Held:
    """Find what an optimizer holds of a gated model: look through its groups.

    Args:
        model: the gated model, if it is known.
        sizes: what the optimizer is known by (see `Held`).
    """
    learnt = list(gates.parameters())
    scores = {id(p) for p in learnt if p.requires_grad}
    marks = {id(getattr(p, _MARK)) for p in learnt if p.requires_grad and hasattr(p, _MARK)}
    # scores that somebody has frozen count as weights: whoever holds them trains the model
    weights = ({id(p) for p in model.parameters()} if model is not None else set()) | {id(p) for p in learnt}
    weights -= scores
    held = Held(sizes)
    for number, group in enumerate(optimizer.param_groups):
        mine = sum(id(p) in scores or id(getattr(p, _MARK, None)) in marks for p in group["params"])
        if mine:
            held.scores.append(number)
            held.alone = held.alone and mine == len(group["params"])
        held.weights = held.weights or any(id(p) in weights for p in group["params"])
    return held


def held_by_some(gates: nn.Module) -> bool:
    """Return whether there is an optimizer with the scores in it, though it may not have stepped yet.

    torch keeps no list of its optimizers, so all objects are looked through, once, before a refusal.
    """
    optimizers = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.optim.Optimizer)]
    return any(
        holdings(optimizer, gates, None, []).scores
        for optimizer in optimizers
        if hasattr(optimizer, "param_groups")
    )


def has_gradients(groups: Iterable[dict[str, Any]]) -> bool:
    """Return whether any parameter of these groups has a gradient."""
    return any(p.grad is not None for group in groups for p in group["params"])


def stands_still(group: Mapping[str, Any]) -> bool:
    """Return whether nothing in this group moves: its learning rate is 0."""
    rate = group.get("lr")
    return isinstance(rate, (int, float)) and rate == 0
