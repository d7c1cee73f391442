"""A check of an attention module's tensors outside its projections: none may have a part for each head."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .fixed_sizes import NotKnown
from .projections import Projection, name_in
from .size_probe import Probe, named_tensors
from .sources import called_after, hands_on_bias


def check_foreign_weights(
    module: nn.Module, projections: tuple[Projection, ...], probe: Callable[[], Probe | None]
) -> None:
    """Refuse a module with a weight, buffer or other tensor outside its projections that may depend on heads.

    Args:
        probe: called only where sizes leave it open.

    Raises:
        NotKnown: names the tensors.
    """
    known = {id(tensor) for projection in projections for tensor in projection.module.parameters()}
    heads = projections[0].num_heads
    output_name = name_in(module, next(p.module for p in projections if not p.out))
    foreign: list[str] = []
    for name, tensor in named_tensors(module):
        # a tensor with a part for each head has a dimension that their number divides
        if id(tensor) in known or heads > 1 and all(size % heads for size in tensor.shape):
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
