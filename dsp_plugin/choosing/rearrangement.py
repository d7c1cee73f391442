"""Which of a block's units stay, once their number is known: greedy swaps under the full Fisher matrix.

Scores of single units say nothing of two that do the same work: without both the loss rises by more than the
sum. Kwon et al. (NeurIPS 2022, section 4.2) swap units of a block as long as that lowers the second-order
estimate of the loss, 1/2 (1 - m)^T I (1 - m), with m the mask and I the block's Fisher matrix.

Notation: h units of a block.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def estimated_loss(fisher: Tensor, keep: Tensor) -> float:
    """Return 1/2 (1 - m)^T I (1 - m) of a mask, bool [h], under a matrix [h, h]."""
    removed = (~keep).to(torch.float64)
    return 0.5 * float(removed @ fisher.to(torch.float64) @ removed)


def rearranged(fisher: Tensor, keep: Tensor) -> Tensor:
    """Swap kept and removed units, the best swap first, until none lowers the estimated loss.

    Args:
        fisher: [h, h], symmetric.
        keep: bool [h], the mask to begin with.

    Returns:
        bool [h] with as many True.

    Raises:
        ValueError: shapes that do not fit.
    """
    if fisher.shape != (len(keep), len(keep)):
        raise ValueError(f"a Fisher matrix {list(fisher.shape)} for a block of {len(keep)} units")
    matrix = fisher.detach().to("cpu", torch.float64).numpy()
    mask = keep.detach().cpu().numpy().astype(bool).copy()
    # relative to the whole: below it a gain is rounding, and two swaps could undo each other for ever
    smallest = 1e-12 * float(np.abs(matrix).sum())
    diagonal = matrix.diagonal()
    while mask.any() and not mask.all():
        row = matrix @ (~mask).astype(np.float64)  # I (1 - m), [h]
        back, out = np.nonzero(~mask)[0], np.nonzero(mask)[0]
        # change of the estimate when `back` returns and `out` goes: [back, out]
        change = (
            (0.5 * diagonal[back] - row[back])[:, None]
            + (0.5 * diagonal[out] + row[out])[None, :]
            - matrix[np.ix_(back, out)]
        )
        best = np.unravel_index(int(change.argmin()), change.shape)
        if not change[best] < -smallest:
            break
        mask[back[best[0]]], mask[out[best[1]]] = True, False
    return torch.from_numpy(mask)
