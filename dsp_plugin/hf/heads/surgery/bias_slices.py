"""Biases of the scores that are made for all heads and handed to a block that has fewer: its part of them
is taken.
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
    """Let an attention module with a link take its heads' part of these arguments. Safe to call again."""
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
    link = module.__dict__[LINK]
    size = value.shape[bias.dim]
    if link.kept is None or size == 1 and not bias.batched:  # one for all heads
        return value
    # a stand-in's
    index = (
        link.kept_index(value.device) if link.kept else torch.zeros(1, dtype=torch.long, device=value.device)
    )
    index = index if link.group == 1 else _queries(index, link.group)
    heads = link.original * link.group
    if bias.batched and size % heads == 0:  # [B * H, ...] -> [B, H, ...] and back
        dim = bias.dim % value.dim()
        return value.unflatten(dim, (-1, heads)).index_select(dim + 1, index).flatten(dim, dim + 1)
    if not bias.batched and size == heads:
        return value.index_select(bias.dim, index)
    raise ValueError(
        f"{type(module).__name__} gets a {bias.argument} of shape {list(value.shape)}, which has no part for "
        f"each of {heads} heads"
    )


def _queries(heads: Tensor, group: int) -> Tensor:
    """Numbers of the query heads of these groups."""
    return (heads[:, None] * group + heads.new_tensor(range(group))).flatten()


@cache
def _positions(module_class: type) -> dict[str, int | None]:
    """{argument: its position in a call}"""
    return {
        name: position
        for position, name in enumerate(list(inspect.signature(module_class.forward).parameters)[1:])
    }
