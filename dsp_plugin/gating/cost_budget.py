"""A budget of what units cost, in place of how many there are: heads and groups of neurons in one number.

Notation: N units, c [N] the cost of each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..options.errors import OptionError

ROUNDING = 1e-9
"""Of the cost of all units: so much more than the bound still counts as within it."""


class CostBudget:
    """Units that cost a share of all together at most, the largest scores first.

    Args:
        costs: [N], each above 0, in any unit (parameters, multiplications, milliseconds).
        share: what is left of the sum of all, 0..1.

    Raises:
        OptionError: a share outside 0..1. ValueError: costs that are not positive and finite.
    """

    def __init__(self, costs: Tensor, share: float):
        costs = torch.as_tensor(costs, dtype=torch.float64).cpu()
        if costs.dim() != 1 or not bool((torch.isfinite(costs) & (costs > 0)).all()):
            raise ValueError("the cost of a unit must be a finite number above 0, one a unit")
        if not 0 <= share <= 1:
            raise OptionError("cost_share", f"must be in 0..1, got {share}")
        self.costs, self.share = costs, float(share)

    def select(self, scores: Tensor) -> Tensor:
        """Choose units: down the scores, each that still fits; ties go to the lower index.

        Args:
            scores: [N], floating, no NaN.

        Returns:
            bool [N], whose costs are within the bound.
        """
        if torch.isnan(scores).any():
            raise ValueError("scores hold NaN, so no unit is the best; the training has diverged")
        whole = float(self.costs.sum())
        left = whole * (self.share + ROUNDING)
        keep, costs = torch.zeros(scores.shape, dtype=torch.bool), self.costs.tolist()
        for index in torch.sort(scores.detach().cpu(), descending=True, stable=True).indices.tolist():
            if costs[index] <= left:
                keep[index] = True
                left -= costs[index]
        return keep.to(scores.device)
