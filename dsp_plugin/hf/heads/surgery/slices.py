"""The rows and columns of a block's projections that belong to heads: taken out, and filled up again with
zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ....surgery import head_rows
from ..layouts.locate import Attention, Projection

Heads = Mapping[str, Sequence[int]]  # {block: head numbers}


def check_shared(root: nn.Module, attentions: Sequence[Attention], kept: Heads) -> None:
    """Refuse to cut a weight that somebody else holds, too, who needs other parts of it.

    Args:
        kept: heads that each block is to keep, of those it has now.

    Raises:
        ValueError: two blocks share a weight and keep different heads, or a module that is no projection of a
            block has it.
    """
    wanted: dict[int, tuple[str, tuple]] = {}
    holders = set()
    changed = {a.block.name for a in attentions if len(kept[a.block.name]) < a.block.num_heads}
    lost: dict[int, str] = {}
    for attention in attentions:
        block = attention.block.name
        for projection in attention.projections:
            for name, dim in _tensors(projection):
                weight = getattr(projection.module, name)
                rows = (dim, projection.unit, projection.parts, projection.num_heads, tuple(kept[block]))
                other, others = wanted.setdefault(id(weight), (block, rows))
                if rows != others and changed & {block, other}:
                    raise ValueError(
                        f"{other} and {block} share one weight, of which they would keep different heads: "
                        "keep the same heads in both, or give each a weight of its own first"
                    )
                holders.add((id(projection.module), name))
                if block in changed:
                    lost[id(weight)] = block
    for path, module in root.named_modules():
        for name, weight in module._parameters.items():
            if id(weight) in lost and (id(module), name) not in holders:
                where = f"{path}.{name}" if path else name
                raise ValueError(
                    f"a projection of {lost[id(weight)]} shares its weight with {where}, which would lose "
                    "its rows, too: give it a weight of its own first"
                )


@torch.no_grad()
def cut(attentions: Sequence[Attention], kept: Heads) -> None:
    """Leave of every block the heads `kept`, numbers among those it has now."""
    made: dict[int, nn.Parameter] = {}
    shapes = {attention.block.name: attention.block.num_heads for attention in attentions}
    for attention in attentions:
        heads = kept[attention.block.name]
        if len(heads) == shapes[attention.block.name]:
            continue
        for projection in attention.projections:
            for name, dim in _tensors(projection):
                weight = getattr(projection.module, name)
                if id(weight) not in made:
                    rows = _rows(projection, heads, attention.block.num_heads).to(weight.device)
                    made[id(weight)] = _like(weight, weight.index_select(dim, rows))
                    made[id(made[id(weight)])] = made[id(weight)]  # a module in two blocks is cut once
                setattr(projection.module, name, made[id(weight)])
            _set_features(projection)
        _set_sizes(attention, len(heads))


@torch.no_grad()
def fill(attentions: Sequence[Attention], kept: Heads, original: Mapping[str, int]) -> None:
    """Undo the shapes of `cut`: zeros in the places of heads that are gone.

    Args:
        kept: original numbers of the heads each block has now; blocks that are not named have all of theirs.
        original: heads each block had.
    """
    made: dict[int, nn.Parameter] = {}
    for attention in attentions:
        block = attention.block.name
        if block not in kept:
            continue
        for projection in attention.projections:
            for name, dim in _tensors(projection):
                weight = getattr(projection.module, name)
                if id(weight) not in made:
                    shape = list(weight.shape)
                    shape[dim] = original[block] * projection.unit * projection.parts
                    rows = _rows(projection, kept[block], original[block]).to(weight.device)
                    made[id(weight)] = _like(weight, weight.new_zeros(shape).index_copy_(dim, rows, weight))
                    made[id(made[id(weight)])] = made[id(weight)]
                setattr(projection.module, name, made[id(weight)])
            _set_features(projection)
        _set_sizes(attention, original[block])


def columns_of(projection: Projection, kept: Sequence[int], num_heads: int) -> Tensor:
    """Bool [F], True for the input columns of an output projection that belong to the heads `kept`."""
    found = torch.zeros(num_heads * projection.unit * projection.parts, dtype=torch.bool)
    found[_rows(projection, kept, num_heads)] = True
    return found


def _rows(projection: Projection, kept: Sequence[int], num_heads: int) -> Tensor:
    """Rows (or columns) of these heads among those of `num_heads`, in all parts of the matrix."""
    rows = head_rows(kept, projection.unit)
    return torch.cat([rows + part * num_heads * projection.unit for part in range(projection.parts)])


def _tensors(projection: Projection) -> Iterator[tuple[str, int]]:
    """(name, dimension of heads) of the tensors heads have a share in: an output projection's bias is
    nobody's.
    """
    transposed = isinstance(projection.module, Conv1D)  # [in, out]
    yield "weight", int(projection.out) if transposed else 1 - int(projection.out)
    if projection.out and projection.module.bias is not None:
        yield "bias", 0


def _like(old: nn.Parameter, values: Tensor) -> nn.Parameter:
    new = nn.Parameter(values.contiguous(), requires_grad=old.requires_grad)
    vars(new).update(vars(old))  # marks that Transformers leaves on a weight
    return new


def _set_features(projection: Projection) -> None:
    """Tell the projection its new size."""
    module, size = projection.module, projection.features
    if isinstance(module, nn.Linear):
        setattr(module, "out_features" if projection.out else "in_features", size)
    elif projection.out:
        module.nf = size
    else:
        module.nx = size
        # the class has no state of its own; changing it leaves the module, its weights and its hooks what
        # they were
        module.__class__ = Conv1D if size else _Conv1DWithoutInput


def _set_sizes(attention: Attention, num_heads: int) -> None:
    """Let the integers that the block's `forward` reads follow its heads."""
    for size in attention.sizes:
        setattr(size.module, size.name, num_heads * size.unit)
    for projection in attention.projections:
        if projection.parts > 1 and hasattr(attention.module, "split_size"):
            # GPT-2 cuts the output of its joint projection into pieces; a list of sizes may hold zeros
            attention.module.split_size = [num_heads * projection.unit] * projection.parts


class _Conv1DWithoutInput(Conv1D):
    """A `Conv1D` of no input features; the stock one cannot view a tensor without elements."""

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(*x.shape[:-1], self.nf)
