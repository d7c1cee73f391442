"""The stretched concrete gate of diff pruning (Guo, Rush, Kim, 2021, section 3.1; Louizos et al., 2018).

Notation: u uniform noise in (0, 1), alpha the gate's learned location, s = sigmoid(logit u + alpha),
z = clip(s (high - low) + low, 0, 1). There is no temperature.

All functions are elementwise and differentiable by hand: they return z together with dz/dalpha, so that no
autograd graph over the mask is ever built.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ....options.errors import OptionError

# exp(ALPHA_LIMIT) is finite in float32; beyond it z, its slope and the penalty's are 0 or 1 to the last bit.
ALPHA_LIMIT = 80.0
NOISE_LOW, NOISE_HIGH = 1e-4, 1 - 1e-4


@dataclass(frozen=True)
class StretchedConcrete:
    """Gates in [0, 1] that are exactly 0 or exactly 1 with positive probability.

    Args:
        low, high: what s in (0, 1) is stretched to (`concrete_lower` and `concrete_upper`; paper: +-1.5).

    Raises:
        OptionError: not low < 0 and high > 1 (exact zeros or ones could not be drawn), or not finite.
    """

    low: float = -1.5
    high: float = 1.5

    def __post_init__(self) -> None:
        if not (-math.inf < self.low < 0 and 1 < self.high < math.inf):
            reason = f"must be below 0 and {{}} above 1, got {self.low} and {self.high}"
            raise OptionError("concrete_lower", reason, "concrete_upper")

    def sample(self, alpha: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return (z, dz/dalpha) for noise u.

        s is worked out as u e^alpha / (u e^alpha + 1 - u): one exponential and no logarithm.
        """
        opened = u * alpha.clamp(-ALPHA_LIMIT, ALPHA_LIMIT).exp()
        return self._stretched(opened, 1 - u)

    def mean(self, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Return (z, dz/dalpha) of the deterministic gate clip(sigmoid(alpha)(high - low) + low, 0, 1)."""
        opened = alpha.clamp(-ALPHA_LIMIT, ALPHA_LIMIT).exp()
        return self._stretched(opened, torch.ones_like(opened))

    def _stretched(self, opened: Tensor, closed: Tensor) -> tuple[Tensor, Tensor]:
        share = 1 / (opened + closed)
        s = opened * share
        stretched = s * (self.high - self.low) + self.low
        slope = (self.high - self.low) * s * (closed * share)
        return stretched.clamp(0, 1), torch.where((stretched > 0) & (stretched < 1), slope, 0.0)

    def open_probability(self, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Return (P(z > 0), its derivative): sigmoid(alpha - log(-low / high))."""
        odds = alpha.clamp(-ALPHA_LIMIT, ALPHA_LIMIT).exp()
        share = 1 / (odds - self.low / self.high)
        probability = odds * share
        return probability, probability * (-self.low / self.high * share)
