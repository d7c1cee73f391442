"""Rows of nested inputs and outputs: taking some, and putting groups of them together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def take_rows(tree: Any, rows: Any, size: int, sizes: int = 1) -> Any:
    """Return `tree` (tensors in tuples, lists, dictionaries) with these rows of the tensors of `size` rows.

    Args:
        sizes: tensors with fewer dimensions are left alone.

    Raises:
        ValueError: there is a cache in it, whose rows cannot be taken.
    """
    _refuse_cache(tree)
    if isinstance(tree, Tensor):
        if tree.dim() < sizes or tree.shape[0] != size:
            return tree
        return tree[rows.to(tree.device) if isinstance(rows, Tensor) else rows]
    if isinstance(tree, dict):
        return _like(tree, {key: take_rows(value, rows, size, sizes) for key, value in tree.items()})
    if isinstance(tree, (tuple, list)):
        return _like(tree, [take_rows(value, rows, size, sizes) for value in tree])
    return tree


def join_rows(parts: Sequence[tuple[int, Any]], spread: bool = False) -> Any:
    """Put the outputs of several groups of rows, (number of rows, output), together in their order.

    Where the last size differs, as logits do by the number of labels, smaller ones are filled up with -inf.

    Args:
        spread: an output with a single row, such as the vectors of positions, stands for all of its group.

    Raises:
        ValueError: an output has no row an example, or is a cache.
    """
    first = parts[0][1]
    _refuse_cache(first)
    if isinstance(first, Tensor):
        if spread:
            # [1, ...] -> [n, ...]
            parts = [(n, t.expand(n, *t.shape[1:]) if t.dim() and t.shape[0] == 1 else t) for n, t in parts]
        if any(not tensor.dim() or tensor.shape[0] != length for length, tensor in parts):
            shape = list(first.shape)
            raise ValueError(f"the rows of several tasks cannot be put together: an output is {shape}")
        tensors = [tensor for _, tensor in parts]
        widest = max(tensor.shape[-1] for tensor in tensors)
        if any(tensor.dim() > 1 and tensor.shape[-1] != widest for tensor in tensors):
            tensors = [F.pad(t, (0, widest - t.shape[-1]), value=-torch.inf) for t in tensors]
        return torch.cat(tensors)
    if isinstance(first, dict):
        return _like(first, {key: join_rows([(n, part[key]) for n, part in parts], spread) for key in first})
    if isinstance(first, (tuple, list)):
        places = range(len(first))
        return _like(first, [join_rows([(n, part[place]) for n, part in parts], spread) for place in places])
    return first


def _refuse_cache(tree: Any) -> None:
    if hasattr(tree, "get_seq_length"):
        cache = type(tree).__name__
        raise ValueError(f"rows of a {cache} cannot be taken: call the model with use_cache=False")


def _like(old: Any, new: Any) -> Any:
    """Return `new` in the type of `old`, among others named tuples and Transformers' outputs."""
    if isinstance(new, dict):
        return type(old)(**new) if type(old) is not dict else new
    return type(old)(*new) if hasattr(old, "_fields") else type(old)(new)


def tensors_in(tree: Any) -> list[Tensor]:
    """List the tensors in tuples, lists and dictionaries, however nested."""
    if isinstance(tree, Tensor):
        return [tree]
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (tuple, list)) else ()
    return [tensor for value in values for tensor in tensors_in(value)]


def other_sizes(tree: Any, size: int) -> set[int]:
    """Return the sizes of the tensors in `tree`, but for the first of those that have `size` rows."""
    shapes = [tensor.shape for tensor in tensors_in(tree) if tensor.dim()]
    return {length for shape in shapes for length in (shape[1:] if shape[0] == size else shape)}


def slice_of(rows: list[int]) -> Any:
    """Return neighbouring rows as a slice, which copies nothing; others as a tensor."""
    if rows == list(range(rows[0], rows[-1] + 1)):
        return slice(rows[0], rows[-1] + 1)
    return torch.tensor(rows)


def number_of(rows: Any) -> int:
    """Return how many rows a slice or a tensor of `slice_of` stands for."""
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)
