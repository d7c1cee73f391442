"""One factor a surviving unit, by least squares, so that its block gives what it gave with all units.

Every unit has a share of its own in the output of the block's output projection: y = sum over u of y_u
(and a bias). With units K kept, the factors minimise |sum over K of a_u y_u - sum over all of y_u|^2 over the
calibration positions (Kwon et al., NeurIPS 2022, section 4.3). Only the scalar products of the shares are
needed, G_uv = sum over positions of y_u . y_v: G_KK a = G_K,all 1, so that one pass of the unpruned model
serves every choice.

Notation: h units of a block, d features of a unit, T positions, C width of the output.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 10.0
"""A factor at or beyond it, of either sign, means that the block is left as it is (Kwon et al.)."""


class GramMatrix:
    """Sums up the scalar products of the shares of a block's units.

    Args:
        weight: of the output projection, [C, h * d]: unit i owns columns i*d .. i*d + d - 1.
        num_units: h.
    """

    def __init__(self, weight: Tensor, num_units: int):
        self.num_units = num_units
        weight = weight.detach()
        self._weights = weight.t() @ weight  # [h * d, h * d]
        self.total = torch.zeros(num_units, num_units, dtype=torch.float64)

    def add(self, inputs: Tensor) -> None:
        """Count the inputs [T, h * d] of the output projection."""
        inputs = inputs.detach().to(self._weights.dtype)
        # y_u . y_v = sum over i of u, j of v of x_i x_j (W^T W)_ij, summed over positions
        products = (inputs.t() @ inputs).mul_(self._weights)
        h = self.num_units
        # [h * d, h * d] -> [h, d, h, d] -> [h, h]
        summed = products.view(h, -1, h, products.shape[0] // h).sum((1, 3)) if h else products
        self.total += summed.to("cpu", torch.float64)


def rescaling_factors(gram: Tensor, keep: Tensor, largest: float = LARGEST) -> Tensor | None:
    """Return the factors of a block's kept units, [kept] float64 in their order.

    Args:
        gram: G [h, h].
        keep: bool [h].
        largest: see above.

    Returns:
        None where the block is to be left as it is: all or none of its units are kept, none has a share, or a
        factor lies outside (-largest, largest).

    Raises:
        ValueError: shapes that do not fit.
    """
    if gram.shape != (len(keep), len(keep)):
        raise ValueError(f"a Gram matrix {list(gram.shape)} for a block of {len(keep)} units")
    keep = keep.to(gram.device)
    if not bool(keep.any()) or bool(keep.all()):
        return None
    gram = gram.to(torch.float64)
    kept, wanted = gram[keep][:, keep], gram[keep].sum(1)
    size = float(kept.diagonal().max())
    if not size > 0 or not bool(torch.isfinite(gram).all()):
        return None
    # units that do the same work share a factor; pinv gives the solution nearest to zero
    change = torch.linalg.pinv(kept / size, rtol=1e-8, hermitian=True) @ ((wanted - kept.sum(1)) / size)
    factors = 1.0 + change
    return factors if bool((factors.abs() < largest).all()) else None
