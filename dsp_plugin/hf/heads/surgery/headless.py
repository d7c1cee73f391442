"""A block that has lost all its heads, in a class whose forward cannot view a tensor without heads.

Such a block runs its stock forward with one head of zeros: the query, key and value projections, which have
no rows left, put out zeros for one head, and the output projection, which has no columns left, takes none of
them, so that the block gives what its output bias gives. Caches, biases and shapes all go on as in any other
block.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..heads_link import add_hook, drop_hook
from ..layouts.projections import Attention

_WIDTH = "dsp_stand_in"  # features that a projection without rows puts out


def run_without_heads(attention: Attention) -> None:
    """Let a block whose projections have no head left run. Nothing to do for one whose forward takes no heads
    as they are.

    To be called after the block's sizes are set: they become those of one head. Safe to call again.
    """
    if not needs_a_head(attention):
        return
    for size in attention.sizes:
        setattr(size.module, size.name, size.unit)
    for projection in attention.projections:
        if projection.out:
            projection.module.__dict__[_WIDTH] = projection.unit * projection.parts
            _drop_put_out(projection.module)
            projection.module.register_forward_hook(_put_out)
        else:
            add_hook(projection.module, _take_nothing, prepend=True)


def run_with_heads(attention: Attention) -> None:
    """Undo `run_without_heads`, apart from the sizes, which are to be set afterwards."""
    for projection in attention.projections:
        if projection.out:
            projection.module.__dict__.pop(_WIDTH, None)
            _drop_put_out(projection.module)
        else:
            drop_hook(projection.module, _take_nothing)


def needs_a_head(attention: Attention) -> bool:
    """Whether the block's forward must be given a head in order to run: it reads its number, or does not
    dispatch.
    """
    return bool(attention.sizes) or not attention.dispatches


def _put_out(projection: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output.new_zeros(*output.shape[:-1], projection.__dict__[_WIDTH])


def _take_nothing(projection: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return args[0][..., :0], *args[1:]


def _drop_put_out(projection: nn.Module) -> None:
    for key in [key for key, hook in projection._forward_hooks.items() if hook is _put_out]:
        del projection._forward_hooks[key]
