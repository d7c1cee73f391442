"""SIMPLE: masks of exactly K heads, taught by their marginals (Ahmed et al., ICLR 2023).

Notation: N heads, K kept, theta [N] one learned score a head, T temperature.
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


class ExactSubset(HeadScores):
    """Hard masks with p(z) proportional to exp(theta . z / T) over all masks that keep to the budget.

    The gradient of a mask is that of the marginals (section 3: stopgrad(z - mu) + mu), so it has neither the
    bias of a relaxed sample nor a temperature that has to fall for gates to be hard.

    Args:
        temperature: maps the number of updates to T, e.g. `ExponentialCooling`, so that the masks settle on
            the deployed one; None: 1 throughout, as published.
        mask_samples: M, the masks that a training pass draws; the examples of a batch take them in turn.

    Raises:
        OptionError: M below 1. ValueError: K outside 0..N.
    """

    def __init__(
        self,
        head_map: HeadMap,
        budget: int | HeadBudget,
        temperature: Callable[[int], float] | None = None,
        mask_samples: int = 1,
    ):
        super().__init__(head_map, budget)
        if mask_samples < 1:
            raise OptionError("mask_samples", f"must be 1 or more, got {mask_samples}")
        self.schedule, self.mask_samples = temperature, mask_samples
        self.temperature = self._temperature_at(0)
        self._marginals: Tensor | None = None

    def set_num_updates(self, num_updates: int) -> None:
        super().set_num_updates(num_updates)
        self.temperature = self._temperature_at(num_updates)

    def follows_updates(self) -> bool:
        later = (self.num_updates + 10**power for power in range(8))
        return any(self._temperature_at(updates) != self.temperature for updates in later)

    def _temperature_at(self, num_updates: int) -> float:
        return 1.0 if self.schedule is None else self.schedule(num_updates)

    def sample(self) -> Tensor:
        """Draw gates [N] float32, exactly 0 or 1 with K ones; with M > 1 masks [M, N], each for itself."""
        masks, marginals = self.budget.exact(self.scores.double() / self.temperature, self.mask_samples)
        self._marginals = marginals.detach()
        return masks.float() if self.mask_samples > 1 else masks[0].float()

    def metrics(self) -> dict[str, float | Tensor]:
        """Return the heads of a mask, T where it falls, and the marginals' mean binary entropy in bits."""
        figures: dict[str, float | Tensor] = {"heads_open": float(self.budget.total)}
        if self.schedule is not None:
            figures["temperature"] = self.temperature
        if self._marginals is not None and self.num_heads:
            mu = self._marginals.clamp(0.0, 1.0)
            nats = -(torch.xlogy(mu, mu) + torch.xlogy(1 - mu, 1 - mu))
            figures["gate_entropy"] = nats.mean() / math.log(2)
        return figures
