"""Differentiable subset pruning: exactly K of N heads (Li, Cotterell, Sachan; TACL 2021).

Notation: N heads, K kept, w [N] one learned score a head, T temperature.
"""

from __future__ import annotations

import math
from typing import Callable, Dict

import torch
from torch import Tensor, nn

from .head_map import HeadMap
from .relaxed_topk import gumbel_noise, hard_topk, relaxed_topk, straight_through_topk


def check_budget(k: int, num_heads: int, option: str = "--num-of-heads") -> int:
    """K as an int.

    Raises:
        ValueError: K is not a whole number in 0..N; names `option` and the range.
    """
    if not 0 <= k <= num_heads or k != int(k):  # in this order: NaN fails the first
        raise ValueError(f"{option} must be a whole number in 0..{num_heads} (heads of the model), got {k}")
    return int(k)


class SubsetScores(nn.Module):
    """Scores w [N] and the deployed mask: the K largest, ties to the lower index.

    Args:
        head_map: the model's heads. w is drawn Xavier-uniform for a [blocks, heads] matrix
            (DSP's reference), i.e. uniform on +-sqrt(6 / (L + H)) with H the largest head count.
        budget: K.

    Raises:
        ValueError: K outside 0..N.
    """

    def __init__(self, head_map: HeadMap, budget: int):
        super().__init__()
        self.num_heads = head_map.num_heads
        self.budget = check_budget(budget, self.num_heads)
        widest = max((block.num_heads for block in head_map.blocks), default=0)
        bound = math.sqrt(6.0 / max(1, len(head_map.blocks) + widest))
        self.scores = nn.Parameter(torch.empty(self.num_heads).uniform_(-bound, bound))

    def keep(self) -> Tensor:
        return hard_topk(self.scores.detach(), self.budget)

    def penalty(self) -> Tensor:
        return self.scores.new_zeros(())

    def set_num_updates(self, num_updates: int) -> None:
        pass

    def metrics(self) -> Dict[str, float]:
        return {"heads_open": float(self.budget)}

    def _apply(self, fn, *args, **kwargs):
        # Scores stay float32, to the last bit, when the host halves its model: an annealed gradient (~ 1/T)
        # overflows half precision, and rounded scores tie, which would deploy other heads.
        scores = self.scores.detach()
        grad = None if self.scores.grad is None else self.scores.grad.detach()
        super()._apply(fn, *args, **kwargs)
        if self.scores.dtype in (torch.float16, torch.bfloat16):
            device = self.scores.device
            self.scores.grad = None
            self.scores.data = scores.to(device, torch.float32)
            if grad is not None:
                self.scores.grad = grad.to(device, torch.float32)
        return self


class RelaxedSubset(SubsetScores):
    """DSP: a relaxed sample without replacement, K rounds of a tempered softmax (section 3.2).

    Args:
        temperature: maps the number of updates to T, e.g. `ExponentialCooling`.
    """

    def __init__(self, head_map: HeadMap, budget: int, temperature: Callable[[int], float]):
        super().__init__(head_map, budget)
        self.schedule = temperature
        self.temperature = temperature(0)
        self._last_sample: Tensor | None = None

    def set_num_updates(self, num_updates: int) -> None:
        self.temperature = self.schedule(num_updates)

    def sample(self) -> Tensor:
        """Gates [N] float32, summing to K, with fresh Gumbel noise at every call; a warm one can exceed 1."""
        noise = gumbel_noise(self.scores.shape, device=self.scores.device)
        gates = relaxed_topk(self.scores, self.budget, self.temperature, noise).float()
        self._last_sample = gates.detach()
        return gates

    def metrics(self) -> Dict[str, float | Tensor]:
        """Of the last sample: heads above one half, mean binary entropy in bits; and T."""
        figures: Dict[str, float | Tensor] = {"temperature": self.temperature}
        if self._last_sample is not None and self.num_heads:
            gates = self._last_sample.double().clamp(0.0, 1.0)
            entropy = -(torch.xlogy(gates, gates) + torch.xlogy(1 - gates, 1 - gates)) / math.log(2)
            # tensors, not numbers: reading them here would make every training step wait for the GPU
            figures.update(heads_open=(gates > 0.5).sum(), gate_entropy=entropy.mean())
        return figures


class StraightThroughSubset(SubsetScores):
    """DSP's straight-through variant: the hard top-K forward, the identity backward; no noise, no T."""

    def sample(self) -> Tensor:
        return straight_through_topk(self.scores, self.budget)
