"""A Transformers model without some of its units, their survivors rescaled; the given one is not changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ....choosing.host import Factors
from ....gating import HeadMap
from ..layouts.projections import Projection
from ..surgery.pruning import prune_heads
from ..units import units_of


def without_units(
    model: PreTrainedModel,
    keep: Tensor,
    factors: Factors | None = None,
    neurons: int | None = None,
    heads: bool = True,
    check: bool | Mapping[str, Any] = True,
) -> PreTrainedModel:
    """Copy a model, scale its survivors, and take the other units out of the copy.

    Args:
        keep: bool [N], in the order of `head_map_of(model, neurons, heads)`.
        factors: for every block the factors of its kept units, or None; they go into the weights of its
            output (or down) projection, so that nothing is left to multiply.
        check: see `prune_heads`.

    Raises:
        ValueError: see `prune_heads`.
    """
    smaller = copy.deepcopy(model)
    if factors is not None:
        units = units_of(smaller, neurons, heads)
        flags = HeadMap([one.block for one in units]).split(keep)
        for one, mine, scales in zip(units, flags, factors):
            if scales is not None:
                scale_units(one.output, mine.nonzero().flatten().tolist(), scales)
    prune_heads(smaller, keep, check, neurons, heads)
    return smaller.eval()


@torch.no_grad()
def scale_units(output: Projection, units: Sequence[int], factors: Tensor) -> None:
    """Multiply what units add to a projection's output, in its weight.

    Args:
        output: an output (or down) projection; unit i owns its input columns i*d .. i*d + d - 1.
        units: their numbers. factors: [units].
    """
    weight = output.module.weight  # [C, F]; a Conv1D's is [F, C]
    scale = torch.ones(output.num_heads, dtype=torch.float64)
    scale[torch.as_tensor(list(units), dtype=torch.long)] = factors.to("cpu", torch.float64)
    columns = scale.repeat_interleave(output.unit).to(weight.device, weight.dtype)  # [F]
    weight.mul_(columns[:, None] if isinstance(output.module, Conv1D) else columns)
