"""Cutting heads out of an attention block's projections, and filling them up again with zeros.

Notation: C width of the model, d size of a head, H heads of the block, h heads kept.

Head i owns rows i*d .. i*d + d - 1 of the query, key and value projections (weights [H*d, C_in], biases
[H*d]) and the same columns of the output projection (weight [C, H*d]). Its bias [C] belongs to no head. Every
head's share of the output is a term of its own in the output projection's sum, so leaving out the rows and
columns of a head gives what multiplying its context by 0 gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Projections:
    """Names of a block's projections, relative to the block.

    Attributes:
        inputs: the query, key and value projections, whose rows belong to heads.
        output: the output projection, whose columns do.
    """

    inputs: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    output: str = "out_proj"


def head_rows(heads: Sequence[int], head_dim: int) -> Tensor:
    """List the rows of a query, key or value projection (columns of the output projection) of these heads.

    Args:
        heads: their numbers, h of them.
        head_dim: d.

    Returns:
        [h * d] int64, head by head in the order of `heads`
    """
    numbers = torch.as_tensor(list(heads), dtype=torch.long)
    # [h, 1] + [d] -> [h, d] -> [h * d]
    return (numbers[:, None] * head_dim + torch.arange(head_dim)).reshape(-1)


def slice_block(
    tensors: Mapping[str, Tensor], heads: Sequence[int], head_dim: int, names: Projections = Projections()
) -> dict[str, Tensor]:
    """Return one block's tensors with the other heads gone.

    Without any head only what belongs to none is left: the output bias, and tensors of other names.

    Args:
        tensors: the block's tensors by relative name, such as "q_proj.weight".
        heads: numbers of those to keep, ascending.
        head_dim: d.

    Returns:
        new tensors, with storage of their own where they were cut

    Raises:
        ValueError: heads that the block does not have, or tensors of other shapes than H heads give.
    """
    dims = {f"{name}.{part}": 0 for name in names.inputs for part in ("weight", "bias")}
    dims[f"{names.output}.weight"] = 1
    sizes = {name: tensors[name].shape[dim] for name, dim in dims.items() if name in tensors}
    if len(set(sizes.values())) > 1 or any(size % head_dim for size in sizes.values()):
        raise ValueError(f"these are not the projections of one block with heads of size {head_dim}: {sizes}")
    num_heads = next(iter(sizes.values()), 0) // head_dim
    _check_heads(heads, num_heads)
    rows = head_rows(heads, head_dim)
    result = {}
    for name, tensor in tensors.items():
        if name not in dims:
            result[name] = tensor
        elif heads:
            result[name] = tensor.index_select(dims[name], rows.to(tensor.device))
    return result


def fill_block(
    tensors: Mapping[str, Tensor],
    heads: Sequence[int],
    head_dim: int,
    shapes: Mapping[str, Sequence[int]],
    names: Projections = Projections(),
) -> dict[str, Tensor]:
    """Undo `slice_block`: return a dense block whose missing heads are zeros in their old places.

    With zeros on both sides of a head neither side ever gets a gradient: it stays dead when the dense model
    is trained.

    Args:
        tensors: a block's tensors by relative name, h heads.
        heads: their numbers, ascending: where the h heads belong in the dense block.
        head_dim: d.
        shapes: shapes of the dense tensors, by relative name.

    Raises:
        ValueError: the tensors do not have h heads, or do not fit into `shapes`.
    """
    bias = tensors[f"{names.output}.bias"]
    rows = head_rows(heads, head_dim).to(bias.device)
    result = dict(tensors)
    for name, shape in shapes.items():
        dim = 1 if name == f"{names.output}.weight" else 0
        _check_heads(heads, shape[dim] // head_dim)
        dense = torch.zeros(*shape, dtype=bias.dtype, device=bias.device)
        if heads:
            part, expected = tensors.get(name), list(shape)
            expected[dim] = len(rows)
            if part is None or list(part.shape) != expected:
                found = "missing" if part is None else list(part.shape)
                raise ValueError(f"{name} must be {expected} to hold {len(heads)} heads, it is {found}")
            dense.index_copy_(dim, rows, part)
        result[name] = dense
    return result


def _check_heads(heads: Sequence[int], num_heads: int) -> None:
    if list(heads) != sorted(set(heads)) or any(not 0 <= head < num_heads for head in heads):
        wanted = f"different numbers in ascending order, of 0..{num_heads - 1}"
        raise ValueError(f"heads to keep must be {wanted}; got {heads}")
