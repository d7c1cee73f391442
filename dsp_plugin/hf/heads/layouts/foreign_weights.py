"""Tensors of an attention module that are no projections: taken for nobody's only where their role is
certain.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .fixed_sizes import NotKnown
from .projections import Projection
from .size_probe import Probe, named_tensors
from .sources import called_after, hands_on_bias


def check_foreign_weights(
    module: nn.Module, projections: tuple[Projection, ...], probe: Callable[[], Probe | None]
) -> None:
    """See that no head has a share in a weight, buffer or plain tensor of the module that is not a
    projection's.

    Args:
        probe: called only where sizes leave it open.

    Raises:
        NotKnown: one has, or may have; names the tensors.
    """
    known = {id(tensor) for projection in projections for tensor in projection.module.parameters()}
    heads = projections[0].num_heads
    output = next(p.module for p in projections if not p.out)
    output_name = next((name for name, part in module.named_children() if part is output), None)
    foreign: list[str] = []
    for name, tensor in named_tensors(module):
        if id(tensor) in known or not _may_be_of_heads(tuple(tensor.shape), heads):
            continue
        first = name.partition(".")[0]
        if first == "relative_attention_bias" and hands_on_bias(type(module)):
            continue  # T5's: made for all heads, and sliced by the attention function
        if output_name is not None and called_after(type(module), first, output_name):
            continue
        found = probe()
        if found is None or not found.same_tensor(name, tuple(tensor.shape)):
            foreign.append(name)
    if foreign:
        raise NotKnown(f"has weights that may belong to heads in a way not known here: {', '.join(foreign)}")


def _may_be_of_heads(shape: tuple[int, ...], heads: int) -> bool:
    """A tensor with a share for each head has a dimension that its number divides."""
    return heads < 2 or any(size % heads == 0 for size in shape)
