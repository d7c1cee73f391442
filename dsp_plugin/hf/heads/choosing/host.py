"""A Transformers model as the search of `choosing` takes it: timed runs, counts, smaller copies."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ....choosing.host import Host, macs_of
from ....options.errors import OptionError
from ....records.environment import device_name, versions
from ...data.input_limits import longest_input
from ...probes.random_inputs import random_inputs
from ..surgery.pruning import count_parameters
from ..units import head_map_of
from .smaller import without_units

DEFAULT_SHAPE = (32, 128)


def host_of(
    model: PreTrainedModel,
    shape: tuple[int, int],
    neurons: int | None = None,
    heads: bool = True,
    clock: str = "wall",
) -> Host:
    """Make the host of a model, for forward passes of random tokens without padding.

    Args:
        model: in `eval()` mode, on the device it is to run on.
        shape: examples and tokens.
        neurons, heads: the units, see `head_map_of`.
        clock: see `Host`.

    Raises:
        OptionError: of `shape`: the model does not take so many tokens or examples.
        ValueError: the model's units are not known, or there are no inputs that it runs with.
    """
    head_map = head_map_of(model, neurons, heads)
    inputs = inputs_of(model, shape)

    @torch.no_grad()
    def run(one: nn.Module) -> None:
        one(**inputs)

    def macs(one: nn.Module) -> float:
        return macs_of(partial(one, **inputs))

    without = partial(_without, model, neurons, heads)
    counts = {"macs": macs, "parameters": count_parameters, "bytes": count_bytes}
    return Host(model, head_map, without, run, counts, next(model.parameters()).device.type, clock)


def inputs_of(model: PreTrainedModel, shape: tuple[int, int]) -> dict[str, Any]:
    """Make the keyword arguments of a timed run. Errors: see `host_of`."""
    size, length = shape
    longest = longest_input(model)
    if longest is not None and length > longest:
        raise OptionError("shape", f"{size}x{length}: the model has positions for {longest} tokens at most")
    inputs = random_inputs(model, size, length, padding=False, text_only=True)
    ids = inputs.get("input_ids")
    if ids is not None and tuple(ids.shape) != (size, length):
        raise OptionError("shape", f"{size}x{length}: the model runs with {list(ids.shape)} tokens only")
    return inputs


def count_bytes(model: nn.Module) -> int:
    """Count the bytes of a model's weights; shared ones count once."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def cost_settings(model: PreTrainedModel, host: Host, cost: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return all that a table of costs depends on, as `CostFile` takes it."""
    sizes = [f"{name} {list(weight.shape)} {weight.dtype}" for name, weight in model.named_parameters()]
    return {
        "cost": cost,
        "clock": host.clock,
        "machine": device_name(host.device),
        "threads": torch.get_num_threads(),
        "torch": versions()["torch"],
        "transformers": versions()["transformers"],
        "shape": list(shape),
        "model": type(model).__name__,
        "weights": hashlib.sha256("\n".join(sizes).encode()).hexdigest()[:16],
        "attention": str(getattr(model.config, "_attn_implementation", None)),
        "units": host.head_map.to_dict()["blocks"],
    }


def _without(model, neurons, heads, keep, factors):
    # no look at every model: dozens are made to be timed; `pruned` looks at the one that is written
    return without_units(model, keep, factors, neurons, heads, check=False)
