"""A LoRA layer of PEFT's with S2 beside A and B: one update a matrix.

It is PEFT's layer, of which the class is exchanged: A and B, their names and files, dropout, merging,
disabling and switching of adapters stay PEFT's. Its `get_delta_weight` is the whole update, so that whatever
of PEFT's merges it merges S2, too.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional

from ...dsee.artefact import Update
from ...dsee.scores import Matrix
from ...dsee.update import add_update
from ...dsee.weight_masks import PackedMask
from .targets import as_matrix

ADAPTER = "default"
VALUES = "dsee_values"  # the parameter with the values of S2


class DseeLinear(LoraLinear):
    """s·B(A x) + s·S2 x beside a frozen matrix [m, n]; made by `take_over`.

    Attributes:
        dsee_values: S2 [N]; dsee_rows, dsee_columns: where, [N] int64.
        dsee_live: [m] 1 for output features that the update may change, 0 for others (the key's in GPT-2's
            joint matrix); None for all.
        dsee_mask: S1 as [m, n], where the update is masked, too; None where it is not.
    """

    dsee_values: nn.Parameter
    dsee_rows: Tensor
    dsee_columns: Tensor
    dsee_live: Tensor | None
    dsee_mask: PackedMask | None

    @staticmethod
    def take_over(layer: nn.Module, live: Tensor | None = None) -> DseeLinear:
        """Make a layer of PEFT's one of these, without entries in S2 so far."""
        weight = layer.lora_A[ADAPTER].weight
        layer.__class__ = DseeLinear
        layer.dsee_mask = None
        layer.register_buffer("dsee_live", None if live is None else live.to(weight))
        layer.set_sparse(torch.zeros(0, dtype=torch.int64), weight.new_zeros(0))
        return layer

    def set_sparse(self, positions: Tensor, values: Tensor) -> None:
        """Give S2 these positions, into the flattened [m, n], and values."""
        weight = self.lora_A[ADAPTER].weight
        where = positions.to(weight.device)
        inputs = weight.shape[1]
        self.register_buffer("dsee_rows", where // max(inputs, 1))
        self.register_buffer("dsee_columns", where % max(inputs, 1))
        self.dsee_values = nn.Parameter(values.detach().to(weight, copy=True))

    def set_low_rank(self, down: Tensor, up: Tensor) -> None:
        """Give A and B these values, of any numbers of features."""
        for part, values in ((self.lora_A[ADAPTER], down), (self.lora_B[ADAPTER], up)):
            part.weight = nn.Parameter(values.detach().to(part.weight, copy=True))
            part.out_features, part.in_features = values.shape
        vars(self).update(in_features=down.shape[1], out_features=up.shape[0])  # PEFT's

    @property
    def down(self) -> Tensor:
        """A [r, n]."""
        return self.lora_A[ADAPTER].weight

    @property
    def up(self) -> Tensor:
        """B [m, r], zeros in the rows that do not change."""
        up = self.lora_B[ADAPTER].weight
        return up if self.dsee_live is None else up * self.dsee_live[:, None]

    def update(self) -> Update:
        """Return the update, as a file has it; tensors of the layer itself."""
        positions = self.dsee_rows * self.down.shape[1] + self.dsee_columns
        return Update(self.down, self.up, positions, self.dsee_values, float(self.scaling[ADAPTER]))

    def matrix(self) -> Matrix:
        """Return the frozen matrix [m, n] and its update."""
        one = self.update()
        weight = as_matrix(self.base_layer, self.base_layer.weight)
        return Matrix(weight, one.down, one.up, one.positions, one.values, one.scale)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return s (B A + S2), masked where the update is, in the shape of the weight as it is stored."""
        if adapter != ADAPTER:
            return super().get_delta_weight(adapter)
        return as_matrix(self.base_layer, self._change()).detach()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the frozen matrix and add the update; see PEFT's for when there is none to add."""
        if self.disable_adapters or self.merged or ADAPTER not in self.active_adapters:
            return super().forward(x, *args, **kwargs)
        if len(self.active_adapters) > 1 or kwargs.get("adapter_names") is not None:
            raise ValueError("an update with S2 is used by itself: activate no other adapter beside it")
        output = self.base_layer(x, *args, **kwargs)
        x = self.lora_dropout[ADAPTER](x)
        if self.dsee_mask is not None:
            change = self._change()
            return output + functional.linear(x.to(change.dtype), change).to(output.dtype)
        where = (self.dsee_rows, self.dsee_columns, self.dsee_values)
        return add_update(output, x, self.down, self.up, *where, self.scaling[ADAPTER])

    def _change(self) -> Tensor:
        """Work out s (B A + S2) as one matrix [m, n], masked where the update is."""
        scale, values = self.scaling[ADAPTER], self.dsee_values
        change = scale * (self.up @ self.down)  # [m, r] @ [r, n]
        change = change.index_put((self.dsee_rows, self.dsee_columns), scale * values, accumulate=True)
        if self.dsee_mask is None:
            return change
        return change.masked_fill(~self.dsee_mask.mask(change.device), 0.0)


def dsee_layers(model: nn.Module) -> dict[str, DseeLinear]:
    """Return the layers with an update by the path of their matrix, in the model's order."""
    return {path: module for path, module in model.named_modules() if isinstance(module, DseeLinear)}
