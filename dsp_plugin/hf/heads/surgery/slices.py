"""Rows and columns of a block's projections that belong to units: cut out, and filled up again with zeros."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ....gating import AttentionBlock
from ....surgery import head_rows
from ..layouts.projections import Projection, Units

HeadNumbers = Mapping[str, Sequence[int]]
"""The numbers of heads by the name of their block."""


def check_shared(root: nn.Module, attentions: Sequence[Units], keep: HeadNumbers) -> None:
    """Refuse to cut a weight that another module holds, too, and needs other parts of.

    Args:
        keep: heads that each block is to keep, of those it has now.

    Raises:
        ValueError: two blocks share a weight and keep different heads, or a module that is no projection of a
            block has it.
    """
    wanted: dict[int, tuple[str, tuple]] = {}
    holders = set()
    changed = {a.block.name for a in attentions if len(keep[a.block.name]) < a.block.num_heads}
    cut_in: dict[int, str] = {}
    for attention in attentions:
        block = attention.block.name
        for projection in attention.projections:
            for name, dim in _tensors(projection):
                weight = getattr(projection.module, name)
                rows = (dim, projection.unit, projection.parts, projection.num_heads, tuple(keep[block]))
                other, others = wanted.setdefault(id(weight), (block, rows))
                if rows != others and changed & {block, other}:
                    raise ValueError(
                        f"{other} and {block} share one weight, of which they would keep different heads: "
                        "keep the same heads in both, or give each a weight of its own first"
                    )
                holders.add((id(projection.module), name))
                if block in changed:
                    cut_in[id(weight)] = block
    for path, module in root.named_modules():
        for name, weight in module._parameters.items():
            if id(weight) in cut_in and (id(module), name) not in holders:
                where = f"{path}.{name}" if path else name
                raise ValueError(
                    f"a projection of {cut_in[id(weight)]} shares its weight with {where}, which would lose "
                    "its rows, too: give it a weight of its own first"
                )


@torch.no_grad()
def cut(attentions: Sequence[Units], keep: HeadNumbers) -> None:
    """Remove the rows and columns of all heads but `keep`, numbers among those each block has now."""

    def smaller(weight: Tensor, dim: int, projection: Projection, block: AttentionBlock) -> Tensor:
        rows = _rows(projection, keep[block.name], block.num_heads)
        return weight.index_select(dim, rows.to(weight.device))

    sizes = {a.block.name: len(keep[a.block.name]) for a in attentions}
    changed = [a for a in attentions if sizes[a.block.name] < a.block.num_heads]
    _replace_weights(changed, sizes, smaller)


@torch.no_grad()
def fill(attentions: Sequence[Units], heads: HeadNumbers, original: Mapping[str, int]) -> None:
    """Undo the shapes of `cut`: removed heads are zeros in their old places.

    Args:
        heads: original numbers of those each block has now; blocks that are not named have all of theirs.
        original: number of heads each block had.
    """

    def larger(weight: Tensor, dim: int, projection: Projection, block: AttentionBlock) -> Tensor:
        shape = list(weight.shape)
        shape[dim] = original[block.name] * projection.unit * projection.parts
        rows = _rows(projection, heads[block.name], original[block.name])
        return weight.new_zeros(shape).index_copy_(dim, rows.to(weight.device), weight)

    _replace_weights([a for a in attentions if a.block.name in heads], original, larger)


def columns_of(projection: Projection, heads: Sequence[int], num_heads: int) -> Tensor:
    """Return bool [F], True for the input columns of an output projection that belong to these heads."""
    found = torch.zeros(num_heads * projection.unit * projection.parts, dtype=torch.bool)
    found[_rows(projection, heads, num_heads)] = True
    return found


def _replace_weights(
    attentions: Sequence[Units],
    num_heads: Mapping[str, int],
    resized: Callable[[Tensor, int, Projection, AttentionBlock], Tensor],
) -> None:
    """Give the projections of these blocks new weights, and let sizes follow.

    Args:
        num_heads: number of heads each block has afterwards.
        resized: (weight, its dimension of heads, projection, block) -> new values.
    """
    made: dict[int, nn.Parameter] = {}
    for attention in attentions:
        for projection in attention.projections:
            for name, dim in _tensors(projection):
                weight = getattr(projection.module, name)
                if id(weight) not in made:
                    made[id(weight)] = _like(weight, resized(weight, dim, projection, attention.block))
                    made[id(made[id(weight)])] = made[id(weight)]  # a module in two blocks is cut once
                setattr(projection.module, name, made[id(weight)])
            _set_features(projection)
        _set_sizes(attention, num_heads[attention.block.name])


def _rows(projection: Projection, heads: Sequence[int], num_heads: int) -> Tensor:
    """Return the rows (or columns) of these heads among those of `num_heads`, in all parts of the matrix."""
    rows = head_rows(heads, projection.unit)
    return torch.cat([rows + part * num_heads * projection.unit for part in range(projection.parts)])


def _tensors(projection: Projection) -> Iterator[tuple[str, int]]:
    """Yield (name, dimension of heads) for the tensors with parts for heads: no output projection's bias."""
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
        # the class has no state of its own: the module, its weights and its hooks stay what they were
        module.__class__ = Conv1D if size else _Conv1DWithoutInput


def _set_sizes(attention: Units, num_heads: int) -> None:
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
        return self.bias.expand(*x.shape[:-1], self.nf)  # [..., 0] -> [..., nf]
