"""A block that has lost all its heads, in a class whose forward cannot view a tensor without heads.

Such a block runs its stock forward with one head of zeros as a stand-in: the query, key and value
projections, which have no rows left, put out zeros for one head, and the output projection, which has no
columns left, reads none of them. The block returns its output bias; caches, biases and shapes are as in any
other block.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..heads_link import add_hook, drop_forward_hook, drop_hook
from ..layouts.projections import Attention

_WIDTH = "dsp_stand_in"  # the attribute of a projection without rows: features that it puts out


def run_without_heads(attention: Attention) -> None:
    """Let a block whose projections have no head left run with a stand-in, if its forward needs a head.

    To be called after the block's sizes are set: they become those of one head. Safe to call again.
    """
    if not needs_a_head(attention):
        return
    for size in attention.sizes:
        setattr(size.module, size.name, size.unit)
    for projection in attention.projections:
        if projection.out:
            projection.module.__dict__[_WIDTH] = projection.unit * projection.parts
            drop_forward_hook(projection.module, _put_out_zeros)
            projection.module.register_forward_hook(_put_out_zeros)
        else:
            add_hook(projection.module, _take_nothing, prepend=True)


def run_with_heads(attention: Attention) -> None:
    """Undo `run_without_heads`, apart from the sizes, which are to be set afterwards."""
    for projection in attention.projections:
        if projection.out:
            projection.module.__dict__.pop(_WIDTH, None)
            drop_forward_hook(projection.module, _put_out_zeros)
        else:
            drop_hook(projection.module, _take_nothing)


def needs_a_head(attention: Attention) -> bool:
    """Return whether the block's forward needs a head to run: it reads their number or does not dispatch."""
    return bool(attention.sizes) or not attention.dispatches


def _put_out_zeros(projection: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output.new_zeros(*output.shape[:-1], projection.__dict__[_WIDTH])  # [..., 0] -> [..., features]


def _take_nothing(projection: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return args[0][..., :0], *args[1:]  # [..., d] -> [..., 0]
