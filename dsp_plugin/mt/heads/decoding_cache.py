"""Keys and values of the steps decoded so far, for a decoder's self-attention.

Stock fairseq copies its whole cache twice a step: to follow the beams, and again to append. Here the first
copy leaves room for the next step, which is then written in place; keys and values travel together.

Shapes: S steps so far, T new ones, B hypotheses, W = heads * head_dim.
"""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor


class DecodingCache:
    """Storage [S + room, B, 2, W]: steps first, so that the steps so far are one contiguous piece."""

    def __init__(self) -> None:
        self._storage: Optional[Tensor] = None
        self._steps = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values [T, B, W] of new steps; returns all so far, each [S + T, B, W]."""
        old, start = self._storage, self._steps
        self._steps += keys.size(0)
        # what autograd has seen must not be overwritten
        if old is not None and old.size(0) >= self._steps and not keys.requires_grad:
            room = old[start : self._steps]
            room[:, :, 0] = keys
            room[:, :, 1] = values
        else:
            new = torch.stack((keys, values), dim=2)  # [T, B, 2, W]
            self._storage = new if old is None else torch.cat((old[:start], new))
        return self._storage[: self._steps, :, 0], self._storage[: self._steps, :, 1]

    def reorder(self, order: Tensor) -> None:
        """Let hypothesis i go on from what was hypothesis order[i]; `order` [B'], B' may differ from B."""
        steps = self._storage[: self._steps]
        if steps.requires_grad:
            self._storage = steps.index_select(1, order)
            return
        self._storage = steps.new_empty(self._steps + 1, order.numel(), *steps.shape[2:])
        torch.index_select(steps, 1, order, out=self._storage[: self._steps])
