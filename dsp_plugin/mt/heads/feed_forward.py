"""fairseq's feed-forward layers with gates on groups of their neurons, and with any number of groups.

Shapes: T positions, B sentences, C = embed_dim, F neurons of the layer, g groups of G neurons: F = g * G.
"""

from collections.abc import Callable, Mapping
from math import gcd
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...gating.gates import for_examples
from ...options.errors import OptionError

NEURONS = "neurons"
"""The option, the attribute of a configuration and of a layer: how many neurons make a group; 0 for none."""


class GatedLinear(nn.Linear):
    """The second linear of a feed-forward layer, which multiplies each group of its input by a gate.

    Parameters and their names are those of stock fairseq's, so that a stock checkpoint loads into it. The
    gates act after activation and dropout, where a neuron's share of the output begins; the bias belongs to
    no group.

    Args:
        in_features: F. out_features: C.
        neurons: G, which divides F.
    """

    def __init__(self, in_features: int, out_features: int, neurons: int):
        super().__init__(in_features, out_features)
        self.neurons = neurons
        # a plain callable, not a submodule, as in `GatedMultiheadAttention`
        self.read_gates: Optional[Callable[[], Optional[Tensor]]] = None

    @property
    def num_groups(self) -> int:
        return self.in_features // self.neurons

    def resize(self, num_groups: int) -> None:
        """Make room for `num_groups` groups of the same size; a checkpoint is to fill the new weight."""
        self.in_features = num_groups * self.neurons
        if num_groups:
            weight = torch.empty(self.out_features, self.in_features)
            self.weight = nn.Parameter(weight.to(self.bias))
            nn.init.xavier_uniform_(self.weight)
        else:
            self.weight = None

    def forward(self, x: Tensor) -> Tensor:
        """Project [T, B, F] to [T, B, C]; without a group it is the bias alone."""
        if self.weight is None:
            # [C] -> [T, B, C]
            return self.bias.to(x.dtype).expand(*x.shape[:-1], self.out_features)
        gates = self.read_gates() if self.read_gates is not None else None
        if gates is not None:
            # [g] or, one row an example, [B, g]; cast so that half precision stays half
            gates = for_examples(gates, x.shape[-2]).to(x.dtype)
            # [T, B, F] -> [T, B, g, G], times [g, 1] or [B, g, 1], -> [T, B, F]
            x = (x.unflatten(-1, (self.num_groups, self.neurons)) * gates.unsqueeze(-1)).flatten(-2)
        return F.linear(x, self.weight, self.bias)


class NoNeurons(nn.Module):
    """What is left of the first linear when a layer has no neuron: it computes nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [T, B, 0] for [T, B, C]."""
        return x[..., :0]


class GatedFeedForward:
    """What encoder and decoder layers have in common: their second linear, and how neurons go.

    It stands before fairseq's layer among the bases of a class, whose `__init__` calls `build_fc2`.
    """

    fc1: nn.Module
    fc2: nn.Module

    def __init__(self, cfg, *args, **kwargs):
        self.neurons = getattr(cfg, NEURONS, 0)
        super().__init__(cfg, *args, **kwargs)
        if self.neurons and getattr(self, "ffn_layernorm", None) is not None:
            reason = "cannot be used with scale_fc: its norm over all neurons changes where one is closed"
            raise OptionError(NEURONS, reason)

    def build_fc2(self, input_dim, output_dim, q_noise, qn_block_size):
        if not self.neurons:
            return super().build_fc2(input_dim, output_dim, q_noise, qn_block_size)
        return GatedLinear(input_dim, output_dim, self.neurons)

    def resize_feed_forward(self, num_groups: int) -> None:
        """Make room for `num_groups` groups of neurons; a checkpoint is to fill the new weights."""
        if num_groups == self.fc2.num_groups:
            return
        inputs = self.fc1.in_features if isinstance(self.fc1, nn.Linear) else self.fc2.out_features
        self.fc2.resize(num_groups)
        self.fc1 = nn.Linear(inputs, num_groups * self.neurons) if num_groups else NoNeurons()


def check_groups(size: int, options: Mapping[str, Any]) -> None:
    """Refuse groups of `size` neurons that a model's layers do not have, and what they cannot stand beside.

    Args:
        options: all of the model's; its widths are those before any removal.

    Raises:
        OptionError: naming the options.
    """
    if type(size) is not int or size < 1:
        raise OptionError(NEURONS, f"must be a whole number of 1 or more, got {size!r}")
    for name, why in _REFUSED.items():
        if options.get(name):
            raise OptionError(NEURONS, f"and {{}} exclude each other: {why}", name)
    widths = {name: int(options[name]) for name in ("encoder_ffn_embed_dim", "decoder_ffn_embed_dim")}
    common = gcd(*widths.values())
    for name, width in widths.items():
        if width % size:
            possible = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
            reason = f"{size}: it must divide {{}}, which is {width}: give one of {possible}"
            raise OptionError(NEURONS, reason, name)


_REFUSED = {
    "quant_noise_pq": "noise is put on whole blocks of weights, whichever groups they are of",
    "quant_noise_scalar": "fairseq puts layers of its own in the place of the gated ones",
    "base_layers": "the neurons of these layers are experts', which have no gates",
}
