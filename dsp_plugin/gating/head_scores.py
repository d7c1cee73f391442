"""One score a head, and a budget that picks by it: what every method that ranks heads has in common."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .budget import HeadBudget, as_budget
from .head_map import HeadMap


class HeadScores(nn.Module):
    """Scores [N] and the deployed mask: the K largest, ties to the lower index.

    Subclasses add `sample()`, and whatever else of `HeadGates` is theirs.

    Attributes:
        trained: the updates that have trained the scores since they were drawn; -1 where they come from a
            state, which does not tell.
        begun: whether they began with scores that somebody gave (`begin_with`) and not with chance.

    Args:
        head_map: the model's heads. Scores are drawn Xavier-uniform for a [blocks, heads] matrix (DSP's
            reference), i.e. uniform on +-sqrt(6 / (L + H)) with L blocks and H the largest head count.
        budget: K, or a `HeadBudget`; None for a method that decides K itself.

    Raises:
        ValueError: K outside 0..N.
    """

    def __init__(self, head_map: HeadMap, budget: int | HeadBudget | None):
        super().__init__()
        self.num_heads = head_map.num_heads
        self.budget = None if budget is None else as_budget(head_map, budget)
        widest = max((block.num_heads for block in head_map.blocks), default=0)
        bound = math.sqrt(6.0 / max(1, len(head_map.blocks) + widest))
        self.scores = nn.Parameter(torch.empty(self.num_heads).uniform_(-bound, bound))
        self.num_updates = 0
        self.trained = 0
        self.begun = False
        self.rounds: Any = None  # `methods.rounds.Rounds`, where a method has them

    @property
    def decided(self) -> bool | None:
        """True where something else than chance has made the scores; None where that cannot be told."""
        return True if self.begun else None if self.trained < 0 else self.trained > 0

    def note_update(self) -> None:
        """Count an update that has trained the scores."""
        self.trained = max(0, self.trained) + 1

    @torch.no_grad()
    def begin_with(self, scores: Tensor) -> None:
        """Take these scores [N] in the place of the random ones, before any update has trained them."""
        self.scores.copy_(scores)
        self.begun = True

    def follows_updates(self) -> bool:
        """Return whether what is sampled still changes with the number of updates."""
        return False

    def keep(self) -> Tensor:
        return self.budget.select(self.scores.detach())

    def penalty(self) -> Tensor:
        return self.scores.new_zeros(())

    def set_num_updates(self, num_updates: int) -> None:
        self.num_updates = num_updates

    def begin_update(self, num_updates: int) -> bool:
        """Do what is due before the update that comes after so many, once; returns whether scores moved."""
        return self.rounds is not None and self.rounds.begin(num_updates, self.scores)

    def metrics(self) -> dict[str, float | Tensor]:
        return {"heads_open": float(self.budget.total)}

    def _load_from_state_dict(self, state_dict, prefix, *args):
        super()._load_from_state_dict(state_dict, prefix, *args)
        if f"{prefix}scores" in state_dict:
            self.trained, self.begun = -1, False

    def _apply(self, fn, *args, **kwargs):
        # Scores stay float32, to the last bit, when the host halves its model: an annealed gradient (~ 1/T)
        # overflows half precision, and rounded scores tie, which would deploy other heads. So does whatever
        # else a method has.
        grads = {n: None if p.grad is None else p.grad.detach() for n, p in self._parameters.items()}
        before = {name: value.detach() for name, value in (*self._parameters.items(), *self._buffers.items())}
        super()._apply(fn, *args, **kwargs)
        for name, value in before.items():
            now = getattr(self, name)
            if now.dtype not in (torch.float16, torch.bfloat16):
                continue
            if name in grads:
                now.grad = None
                now.data = value.to(now.device, torch.float32)
                if grads[name] is not None:
                    now.grad = grads[name].to(now.device, torch.float32)
            else:
                self._buffers[name] = value.to(now.device, torch.float32)
        return self


class RankedGates(HeadScores):
    """Scores that do not learn: a ranking from elsewhere (importance, magnitude, chance) and its K best.

    The mask holds in training too, so that the model is tuned with the heads it is deployed with.

    Args:
        head_map, budget: see `HeadScores`.
        ranking: [N] scores, larger is better; None where a checkpoint or `install` will bring them.
    """

    learns = False

    def __init__(self, head_map: HeadMap, budget: int | HeadBudget, ranking: Tensor | None = None):
        super().__init__(head_map, budget)
        self.scores.requires_grad_(False)
        self.register_buffer("chosen", torch.tensor(ranking is not None))
        if ranking is not None:
            self.scores.data.copy_(ranking)

    @property
    def decided(self) -> bool:
        return bool(self.chosen)

    @torch.no_grad()
    def install(self, ranking: Tensor) -> None:
        """Take these scores [N] from now on; `chosen`, which is saved with them, tells that it was done."""
        self.scores.copy_(ranking)
        self.chosen.fill_(True)

    def sample(self) -> Tensor:
        return self.keep().float()
