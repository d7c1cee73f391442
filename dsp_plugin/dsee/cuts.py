"""Cutting an update along with a frozen matrix that loses rows or columns."""

from __future__ import annotations

import torch
from torch import Tensor

from .artefact import Update


@torch.no_grad()
def cut_update(update: Update, rows: bool, left: Tensor) -> Update:
    """Return the update of a matrix [m, n] of which these output features (or input features) are left.

    Args:
        rows: whether `left` is of the output features, [m] bool; else of the input features, [n].
    """
    left = left.to(update.down.device)
    inputs = update.down.shape[1]
    row, column = update.positions // max(inputs, 1), update.positions % max(inputs, 1)
    stays = left[row if rows else column]
    place = left.cumsum(0) - 1  # the number that a feature has afterwards
    row, column, values = row[stays], column[stays], update.values[stays]
    if rows:
        return Update(update.down, update.up[left], place[row] * inputs + column, values, update.scale)
    fewer = int(left.sum())
    return Update(update.down[:, left], update.up, row * fewer + place[column], values, update.scale)
