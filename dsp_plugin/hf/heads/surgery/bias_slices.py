"""Selection of a pruned block's part of the score biases, which the model makes for all heads.

Notation: B examples, H all query heads, h query heads the block has left.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ..heads_link import LINK, add_hook, drop_hook
from ..layouts.projections import Bias

_BIASES = "dsp_biases"  # the attribute of an attention module that says which of its arguments are such


def slice_biases(module: nn.Module, biases: Sequence[Bias]) -> None:
    """Let an attention module with a link select its heads in these arguments. Safe to call again."""
    if biases:
        setattr(module, _BIASES, tuple(biases))
        add_hook(module, _slice, with_kwargs=True)


def forget_biases(module: nn.Module) -> None:
    """Undo `slice_biases`."""
    drop_hook(module, _slice)
    module.__dict__.pop(_BIASES, None)


def _slice(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    positions, args = _positions(type(module)), list(args)
    for bias in module.__dict__[_BIASES]:
        position = positions[bias.argument]
        if kwargs.get(bias.argument) is not None:
            kwargs = {**kwargs, bias.argument: _part(module, bias, kwargs[bias.argument])}
        elif position < len(args) and args[position] is not None:
            args[position] = _part(module, bias, args[position])
    return tuple(args), kwargs


def _part(module: nn.Module, bias: Bias, value: Tensor) -> Tensor:
    """Return the part of a bias that belongs to the heads which are left."""
    link = module.__dict__[LINK]
    size = value.shape[bias.dim]
    if link.kept is None or size == 1 and not bias.batched:  # one for all heads
        return value
    # a block without heads runs with one stand-in
    none_left = not link.kept
    index = value.new_zeros(1, dtype=torch.long) if none_left else link.kept_index(value.device)
    index = index if link.group == 1 else _query_heads(index, link.group)
    heads = link.original * link.group
    if bias.batched and size % heads == 0:
        dim = bias.dim % value.dim()
        by_head = value.unflatten(dim, (-1, heads))  # [..., B * H, ...] -> [..., B, H, ...]
        return by_head.index_select(dim + 1, index).flatten(dim, dim + 1)  # -> [..., B * h, ...]
    if not bias.batched and size == heads:
        return value.index_select(bias.dim, index)
    raise ValueError(
        f"{type(module).__name__} gets a {bias.argument} of shape {list(value.shape)}, which has no part for "
        f"each of {heads} heads"
    )


def _query_heads(groups: Tensor, size: int) -> Tensor:
    """Return the numbers of the query heads of these groups, [groups] -> [groups * size]."""
    # [groups, 1] + [size] -> [groups, size] -> [groups * size]
    return (groups[:, None] * size + groups.new_tensor(range(size))).flatten()


@cache
def _positions(module_class: type) -> dict[str, int]:
    """Return the position of every argument in a call of the module."""
    names = list(inspect.signature(module_class.forward).parameters)[1:]  # without `self`
    return {name: position for position, name in enumerate(names)}
