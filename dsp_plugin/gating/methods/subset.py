"""Differentiable subset pruning: exactly K of N heads (Li, Cotterell, Sachan; TACL 2021).

Notation: N heads, K kept, w [N] one learned score a head, T temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...options.errors import OptionError
from ..budget import HeadBudget
from ..head_map import HeadMap
from ..head_scores import HeadScores
from ..sampling.limits import SMALLEST_GATE
from ..sampling.relaxed_topk import gumbel_noise


class RelaxedSubset(HeadScores):
    """DSP: a relaxed sample without replacement, K rounds of a tempered softmax (section 3.2).

    Args:
        temperature: maps the number of updates to T, e.g. `ExponentialCooling`.
        noise: maps it to the scale of the Gumbel noise, e.g. `FallingNoise`; None: 1 throughout, as
            published. At 0 the sample is a relaxed top K of the scores alone, so that a cold one is the
            deployed mask.
        mask_samples: M, the masks that a training pass draws; the examples of a batch take them in turn. The
            published program draws 1 for all. The gradient's variance is all but that of one mask, and with M
            of them an M-th of it.
    """

    def __init__(
        self,
        head_map: HeadMap,
        budget: int | HeadBudget,
        temperature: Callable[[int], float],
        noise: Callable[[int], float] | None = None,
        mask_samples: int = 1,
    ):
        super().__init__(head_map, budget)
        self.schedule = temperature
        self.noise_schedule = noise
        if mask_samples < 1:
            raise OptionError("mask_samples", f"must be 1 or more, got {mask_samples}")
        self.mask_samples = mask_samples
        self.temperature = temperature(0)
        self.noise = 1.0 if noise is None else noise(0)
        self._last_sample: Tensor | None = None

    def set_num_updates(self, num_updates: int) -> None:
        super().set_num_updates(num_updates)
        self.temperature = self.schedule(num_updates)
        if self.noise_schedule is not None:
            self.noise = self.noise_schedule(num_updates)

    def follows_updates(self) -> bool:
        later = (self.num_updates + 10**power for power in range(8))
        known = self.temperature, self.noise
        return any((self.schedule(updates), self._noise_at(updates)) != known for updates in later)

    def _noise_at(self, num_updates: int) -> float:
        return self.noise if self.noise_schedule is None else self.noise_schedule(num_updates)

    def sample(self) -> Tensor:
        """Draw gates [N] float32 that sum to K, with fresh Gumbel noise; a warm one can exceed 1.

        With M > 1 masks they are [M, N], every row for itself. A gate below `SMALLEST_GATE` is an exact zero;
        its gradient is that of the sample before.
        """
        shape = self.scores.shape if self.mask_samples == 1 else (self.mask_samples, *self.scores.shape)
        noise = gumbel_noise(shape, device=self.scores.device)
        gates = self.budget.relaxed(self.scores, self.temperature, self.noise * noise).float()
        # outside autograd, which keeps no copy of what `float` returns
        self._last_sample = gates.detach()
        self._last_sample.masked_fill_(self._last_sample < SMALLEST_GATE, 0.0)
        return gates

    def metrics(self) -> dict[str, float | Tensor]:
        """Return T and, of the last sample, the heads above one half and the mean binary entropy in bits.

        Of several masks the heads are those of one, on average.
        """
        figures: dict[str, float | Tensor] = {"temperature": self.temperature}
        if self._last_sample is not None and self.num_heads:
            gates = self._last_sample.double().clamp(0.0, 1.0)
            entropy = -(torch.xlogy(gates, gates) + torch.xlogy(1 - gates, 1 - gates)) / math.log(2)
            # tensors, not numbers: reading them here would make every training step wait for the GPU
            figures.update(heads_open=(gates > 0.5).sum() / self.mask_samples, gate_entropy=entropy.mean())
        return figures


class StraightThroughSubset(HeadScores):
    """DSP's straight-through variant: the hard top-K forward, the identity backward; no noise, no T."""

    def sample(self) -> Tensor:
        return self.budget.straight_through(self.scores)
