"""Which heads' attention weights a masked model shows: those that it deploys, as if without the rest."""

from __future__ import annotations

from torch import Tensor


def heads_open(gates: Tensor) -> Tensor | None:
    """Return which heads have a gate other than 0, bool [h].

    Args:
        gates: [h], or [B, h] one row an example; None comes back where the examples of a batch differ.
    """
    found = gates.detach() != 0
    if found.dim() == 1:
        return found
    return found[0] if bool((found == found[0]).all()) else None
