"""Cutting A, B, S2 and S1 along with the frozen matrices that have lost units."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ...dsee.cuts import cut_update
from .layer import DseeLinear
from .state import Dsee

Cuts = Mapping[str, tuple[bool, Tensor]]
"""{path of a matrix: (whether `left` is of its output features, not its input features; left, bool)}"""


def cut_updates(model: nn.Module, state: Dsee, layers: Mapping[str, DseeLinear], cuts: Cuts) -> None:
    """Bring layers that lie beside a model, and its masks, to the sizes that the matrices have now."""
    for path, (rows, left) in cuts.items():
        if path in layers:
            layer = layers[path]
            smaller = cut_update(layer.update(), rows, left)
            live = layer.dsee_live
            layer.set_low_rank(smaller.down, smaller.up)
            layer.set_sparse(smaller.positions, smaller.values)
            if rows and live is not None:
                layer.register_buffer("dsee_live", live[left.to(live.device)])
            layer.dsee_mask = None
        name = f"{path}.weight"
        if name in state.masks:
            transposed = isinstance(model.get_submodule(path), Conv1D)
            state.masks[name] = state.masks[name].select(int(rows == transposed), left)
