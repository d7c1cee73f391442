"""What the units of a fairseq transformer cost, in parameters."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...gating import HeadMap


def unit_parameters(head_map: HeadMap, options: Mapping[str, Any]) -> Tensor:
    """Count the parameters that go with each unit, [N] float64, from the model's flat options.

    A head of size d has four weights of width d, and three biases; a group of G neurons the two weights and
    one bias of its neurons. What stays when all units are gone, the output's bias, is none of theirs.
    """
    found: list[float] = []
    for block in head_map.blocks:
        side = block.kind.split("-")[0]
        width = options[f"{side}_embed_dim"]
        if block.neurons:
            each = block.neurons * (2 * width + 1)
        else:
            size = width // options[f"{side}_attention_heads"]
            source = options["encoder_embed_dim"] if block.kind == "decoder-cross" else width
            each = size * (2 * width + 2 * source + 3)
        found += [each] * block.num_heads
    return torch.tensor(found, dtype=torch.float64)
