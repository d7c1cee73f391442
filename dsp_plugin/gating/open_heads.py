"""Which heads' attention weights a masked model shows: those of the heads that it deploys, like the model
without the rest.
"""

from __future__ import annotations

from torch import Tensor


def heads_open(gates: Tensor) -> Tensor | None:
    """Heads with a gate other than 0, bool [h], by gates [h] or [B, h]; None where the examples of a batch
    differ.
    """
    found = gates.detach() != 0
    if found.dim() == 1:
        return found
    return found[0] if bool((found == found[0]).all()) else None
