"""The units of a checkpoint among which is chosen: heads, groups of neurons, or both."""

from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor

from ...choosing.host import Factors
from ...gating import HeadMap
from ...options.errors import OptionError
from ..heads.checkpoint_heads import SCORES
from ..heads.feed_forward import NEURONS
from ..surgery.pruning import (
    CheckpointModel,
    Pruned,
    prepare,
    projections_of,
    put_block,
    remove_heads,
    take_block,
)


@dataclass
class Choosable:
    """A checkpoint, and which of its units may go.

    Attributes:
        source: the checkpoint.
        head_map: the units that may go, N.
        places: their positions among all M units of the checkpoint, int64 [N].
    """

    source: CheckpointModel
    head_map: HeadMap
    places: Tensor

    def whole_mask(self, keep: Tensor) -> Tensor:
        """Return bool [M] for bool [N]: units that may not go are kept."""
        mask = torch.ones(self.source.head_map.num_heads, dtype=torch.bool)
        mask[self.places] = keep
        return mask

    def without(self, keep: Tensor, factors: Optional[Factors] = None) -> Pruned:
        """Scale the survivors, and take the other units out; the checkpoint is left as it is.

        Args:
            keep: bool [N].
            factors: for every block of `head_map` the factors of its kept units, or None.
        """
        return remove_heads(self.scaled(keep, factors), self.whole_mask(keep))

    def scaled(self, keep: Tensor, factors: Optional[Factors]) -> CheckpointModel:
        """Return the checkpoint with the survivors' columns of output (or second) projections multiplied.

        Arguments as `without`.
        """
        if factors is None:
            return self.source
        tensors = dict(self.source.tensors)
        for block, flags, scales in zip(self.head_map.blocks, self.head_map.split(keep), factors):
            if scales is None:
                continue
            own = take_block(tensors, block)
            name = f"{projections_of(block).output}.weight"
            weight = own[name]  # [C, h * d]
            each = torch.ones(block.num_heads, dtype=torch.float64)
            each[flags] = scales.to(torch.float64)
            columns = each.repeat_interleave(weight.shape[1] // block.num_heads)
            own[name] = (weight * columns).to(weight.dtype)
            put_block(tensors, block, own)
        return CheckpointModel(**{**vars(self.source), "tensors": tensors})


def choosable(state: dict[str, Any], neurons: Optional[int], heads: bool) -> Choosable:
    """Read the units of a checkpoint.

    Args:
        state: see `load_checkpoint`; left as it is.
        neurons: size of the groups of neurons that may go; None where none may.
        heads: whether heads may go.

    Raises:
        OptionError: of `group`: no groups of that size.
        ValueError: the checkpoint has head gates, or is of another kind of model.
    """
    try:
        source = prepare(state, neurons)
    except OptionError as error:
        if error.name != NEURONS:
            raise
        reason = error.reason.replace("{}", "the number of neurons")
        raise OptionError("group", reason) from error
    if SCORES in source.tensors:
        raise ValueError(
            "the checkpoint has head gates: take the heads that they close out first (dsp prune without a "
            "speed), and choose among those that are left"
        )
    flags = [
        heads if not block.neurons else neurons is not None
        for block in source.head_map.blocks
        for _ in range(block.num_heads)
    ]
    blocks = [block for block in source.head_map.blocks if (neurons is not None if block.neurons else heads)]
    return Choosable(source, HeadMap(blocks), torch.tensor(flags, dtype=torch.bool).nonzero().flatten())
