"""Taking heads out of a Transformers model for good, and filling them up again with zeros.

The rows of the query, key and value projections and the columns of the output projection that belong to a removed
head go; the output bias stays. What is left gives what the model gives with the head's gate at 0. The record of
what was kept is `config.kept_heads`, {block: original head numbers}: it is saved with the model.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import List, Optional, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..gating import AttentionBlock, HeadMap
from ..surgery import KeptHeads, check_record, compose, head_rows
from .empty_cache import count_steps_without_heads, forget
from .gating import GATING, heads_link, switchboard_of, ungate_heads
from .heads_link import LINK, forget_heads
from .interface import use_ours, use_stock
from .layouts import Attention, Projection, attentions_of

KEPT_HEADS = "kept_heads"


@dataclass(frozen=True)
class Removal:
    """What `prune_heads` did.

    Attributes:
        heads_before, heads_after: of the model, by its HeadMap.
        parameters_before, parameters_after: weights of the model; shared ones count once, those of gates do not.
        kept_heads: the record, {block: original head numbers}.
    """

    heads_before: int
    heads_after: int
    parameters_before: int
    parameters_after: int
    kept_heads: KeptHeads


def prune_heads(model: PreTrainedModel, keep: Optional[Sequence[bool] | Tensor] = None) -> Removal:
    """Remove the heads that are not kept, in place. An optimizer made before holds weights that are no longer there.

    A gated model loses its gates: those of the heads that are left would all be open.

    Args:
        model: any model `head_map_of` takes; it may have been pruned before.
        keep: [N], True = kept, in the order of `head_map_of(model)`; None for the mask of the model's own gates.

    Raises:
        ValueError: the model is not supported, `keep` is missing or of another length, nothing has trained or ranked the
            scores of the gates, or a projection is not a plain one (quantised, or with an adapter).
    """
    attentions = attentions_of(model)
    head_map = HeadMap([attention.block for attention in attentions])
    switchboard = switchboard_of(model)
    if keep is None and switchboard is None:
        raise ValueError("which heads to keep was not said: give `keep`, or a gated model")
    if keep is None and getattr(switchboard.gates, "decided", None) is False:
        raise ValueError(
            "the scores of the heads are those of the random start: nothing has trained or ranked them; train the gated model "
            "first, load its scores (load_gating), or say with `keep` which heads are to stay"
        )
    kept = head_map.kept_by_block(switchboard.gates.keep() if keep is None else keep)
    flags = [head in kept[block.name] for block in head_map.blocks for head in range(block.num_heads)]
    record = compose(head_map, flags, record_of(model))
    _check_plain(attentions)

    parameters = count_parameters(model)
    ungate_heads(model)
    for attention in attentions:
        _cut(attention, kept[attention.block.name])
        heads_link(attention).keep(record[attention.block.name])
        if not record[attention.block.name] or "position_bias" in inspect.signature(type(attention.module).forward).parameters:
            use_ours(attention.module)
    setattr(model.config, KEPT_HEADS, record)
    return Removal(head_map.num_heads, sum(flags), parameters, count_parameters(model), record)


def prune_to_record(model: PreTrainedModel, record: KeptHeads) -> None:
    """Give a model that has all its heads the shapes of `record`, in place.

    Raises:
        ValueError: the record is of another model.
    """
    attentions = attentions_of(model)
    head_map = HeadMap([attention.block for attention in attentions])
    check_record(record, head_map)
    if hasattr(model.config, KEPT_HEADS):
        delattr(model.config, KEPT_HEADS)  # it names what the model is to become
    # a list: while from_pretrained builds a model, every new tensor is on the meta device and has no values
    prune_heads(model, [head in record[block.name] for block in head_map.blocks for head in range(block.num_heads)])


@torch.no_grad()
def fill_heads(model: PreTrainedModel) -> None:
    """Undo the shapes of `prune_heads`, in place: removed heads are zeros in their old places.

    The outputs stay the same. The model is stock again: no record, no attention function of ours.
    """
    ungate_heads(model)
    for attention in attentions_of(model):
        link = getattr(attention.module, LINK, None)
        if link is None:
            continue
        if link.kept is not None:
            for projection in attention.projections:
                _fill(projection, link.kept, link.original)
            _set_split_size(attention, link.original)
        forget(attention.module)
        forget_heads(attention.module)
        forget_heads(attention.output.module)
    use_stock(model)
    if hasattr(model.config, KEPT_HEADS):
        delattr(model.config, KEPT_HEADS)


def record_of(model: PreTrainedModel) -> Optional[KeptHeads]:
    """What is left of each block's heads, by their original numbers; None for a model that has them all."""
    return getattr(model.config, KEPT_HEADS, None)


def original_head_map(model: PreTrainedModel) -> HeadMap:
    """The heads a model had before any removal."""
    blocks = []
    for attention in attentions_of(model):
        link = getattr(attention.module, LINK, None)
        heads = attention.block.num_heads if link is None else link.original
        blocks.append(AttentionBlock(attention.block.name, heads, attention.block.kind))
    return HeadMap(blocks)


def count_parameters(model: nn.Module) -> int:
    """Weights of a model; shared ones count once, those of gates do not."""
    return sum(weight.numel() for name, weight in model.named_parameters() if not name.startswith(GATING + "."))


def _check_plain(attentions: Sequence[Attention]) -> None:
    for attention in attentions:
        for projection in attention.projections:
            if not isinstance(projection.module, (nn.Linear, Conv1D)):
                raise ValueError(
                    f"a projection of {attention.block.name} is a {type(projection.module).__name__}: heads can be removed "
                    "from plain weights only; merge adapters into them, or load the model without quantisation, first"
                )


@torch.no_grad()
def _cut(attention: Attention, kept: List[int]) -> None:
    if len(kept) == attention.block.num_heads:
        return
    for projection in attention.projections:
        rows = _rows(projection, kept, projection.num_heads)
        for name in _tensors(projection):
            weight = getattr(projection.module, name)
            index = rows.to(weight.device)
            _replace(projection.module, name, weight.index_select(_dim(projection, name), index))
        _set_size(projection)
    _set_split_size(attention, len(kept))
    if not kept and attention.block.kind == "decoder-self":
        count_steps_without_heads(attention.module)


def _fill(projection: Projection, kept: List[int], original: int) -> None:
    rows = _rows(projection, kept, original)
    for name in _tensors(projection):
        weight, dim = getattr(projection.module, name), _dim(projection, name)
        shape = list(weight.shape)
        shape[dim] = original * projection.unit * projection.parts
        _replace(projection.module, name, weight.new_zeros(shape).index_copy_(dim, rows.to(weight.device), weight))
    _set_size(projection)


def _rows(projection: Projection, kept: Sequence[int], num_heads: int) -> Tensor:
    """Rows (or columns) of these heads among those of `num_heads`, in all parts of the matrix."""
    rows = head_rows(kept, projection.unit)
    return torch.cat([rows + part * num_heads * projection.unit for part in range(projection.parts)])


def _tensors(projection: Projection) -> List[str]:
    """Names of the tensors that heads have a share in: an output projection's bias is nobody's."""
    has_bias = projection.out and projection.module.bias is not None
    return ["weight", "bias"] if has_bias else ["weight"]


def _dim(projection: Projection, name: str) -> int:
    if name == "bias":
        return 0
    transposed = isinstance(projection.module, Conv1D)  # [in, out]
    return int(projection.out) if transposed else 1 - int(projection.out)


def _replace(module: nn.Module, name: str, tensor: Tensor) -> None:
    old = getattr(module, name)
    new = nn.Parameter(tensor.contiguous(), requires_grad=old.requires_grad)
    setattr(module, name, new)


def _set_size(projection: Projection) -> None:
    """Tell the projection its new size."""
    module, size = projection.module, projection.features
    if isinstance(module, nn.Linear):
        setattr(module, "out_features" if projection.out else "in_features", size)
    elif projection.out:
        module.nf = size
    else:
        module.nx = size
        # the class has no state of its own; changing it leaves the module, its weights and its hooks what they were
        module.__class__ = Conv1D if size else _Conv1DWithoutInput


def _set_split_size(attention: Attention, num_heads: int) -> None:
    """GPT-2 cuts the output of its joint projection into pieces of `split_size`; a list of sizes may hold zeros."""
    for projection in attention.projections:
        if projection.parts > 1:
            attention.module.split_size = [num_heads * projection.unit] * projection.parts


class _Conv1DWithoutInput(Conv1D):
    """A `Conv1D` of no input features; the stock one cannot view a tensor without elements."""

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(*x.shape[:-1], self.nf)
