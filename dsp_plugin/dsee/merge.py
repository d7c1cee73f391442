"""What a frozen matrix and its update make together, as one matrix.

Notation: W0 [m, n]; ΔW = s (B A + S2); S1 the mask of what pruning has left of W0.

Training works with W0 ⊙ S1 + ΔW, in which ΔW is dense again where it is of low rank. Merged so, the model is
what it was, and the matrix is dense. `(W0 + ΔW) ⊙ S1` stays sparse, and is another matrix: it is exactly what
a model computes whose updates are masked, too.
"""

from __future__ import annotations

from torch import Tensor

from .scores import Matrix
from .weight_masks import PackedMask


def merged_weight(matrix: Matrix, mask: PackedMask | None = None, masked: bool = False) -> Tensor:
    """Return W0 ⊙ S1 + ΔW, or (W0 + ΔW) ⊙ S1 with `masked`, [m, n] in the dtype of W0.

    Args:
        matrix: W0, before or after S1 was applied to it, and its update.
        mask: S1; None for all weights.
    """
    weight, change = matrix.weight.detach(), matrix.scale * matrix.update()
    if mask is None:
        return (weight.to(change.dtype) + change).to(weight.dtype)
    gone = ~mask.mask(weight.device)
    merged = weight.to(change.dtype).masked_fill(gone, 0.0)
    merged += change.masked_fill_(gone, 0.0) if masked else change
    return merged.to(weight.dtype)
