"""What the methods of Delta-Tuning are in a translation model, by fairseq's names.

bias      the model's own parameters of that name; its checkpoints hold the trained values
adapter   a module `adapter` in an attention block or a second linear, applied to what that puts out
lora      DSEE's layer without single entries, see mt/dsee/layer.py
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...artefacts.base import Base
from ...delta.modules import Adapter, bottleneck_of, is_bias
from ...delta.parts import Part, grouped
from ...dsee.artefact import Update
from ...options.errors import OptionError
from ..dsee.layer import MARK, update_tensors, updates_in

METHODS = ("bias", "adapter", "lora")
"""The methods that there are on fairseq, in the order of messages and files."""

ADAPTER = ".adapter."
"""Stands in the names of an adapter's tensors, after its place: `...fc2.adapter.down.weight`."""

NAMES = ("down.weight", "down.bias", "up.weight", "up.bias")


def places_of(blocks: Iterable[str], kind: str) -> list[str]:
    """Return the modules whose output an adapter follows.

    Args:
        blocks: the attention blocks, `encoder.layers.0.self_attn`.
        kind: `houlsby`, after every sub-layer, cross-attention among them; `pfeiffer`, after the feed-forward
            one alone.
    """
    blocks = list(blocks)
    layers = dict.fromkeys(block.rpartition(".")[0] for block in blocks)
    return [*(blocks if kind == "houlsby" else ()), *(f"{layer}.fc2" for layer in layers)]


def place_adapters(model: nn.Module, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Give modules of a model adapters in place, for the weights that will be loaded.

    Args:
        sizes: place -> width and bottleneck.
    """
    for place, (width, bottleneck) in sizes.items():
        module = model.get_submodule(place)
        module.adapter = Adapter(width, bottleneck)
        module.register_forward_hook(_adapt)


def _adapt(module: nn.Module, _: Any, output: Any) -> Any:
    """Apply a module's adapter to what it puts out: [T, B, C], or that and attention weights."""
    if isinstance(output, tuple):
        return (module.adapter(output[0]), *output[1:])
    return module.adapter(output)


def adapter_sizes(
    blocks: Iterable[str], kind: str, reduction: int, options: Mapping[str, Any]
) -> dict[str, tuple[int, int]]:
    """Return place -> width and bottleneck of the adapters that a model has.

    Args:
        blocks, kind: see `places_of`. options: of the model, its widths among them.

    Raises:
        OptionError: the reduction cannot be.
    """
    found = {}
    for place in places_of(blocks, kind):
        width = int(options[f"{place.partition('.')[0]}_embed_dim"])
        found[place] = (width, bottleneck(width, reduction))
    return found


def bottleneck(width: int, reduction: int) -> int:
    """Return the width of a bottleneck. Errors as `bottleneck_of`, of --adapter-reduction."""
    try:
        return bottleneck_of(width, reduction)
    except OptionError as error:
        raise OptionError("adapter_reduction", error.args[1]) from None


def biases_in(base: Base) -> list[str]:
    """Return the names of a base's biases; those of a block without heads may be empty, and are left out."""
    return [name for name, (_, shape) in base.parameters.items() if is_bias(name) and math.prod(shape)]


def owner_of(name: str) -> str | None:
    """Return the method that trains a parameter of a model; None for one of the base's weights."""
    if MARK in name:
        return "lora"
    if ADAPTER in name:
        return "adapter"
    return "bias" if is_bias(name) else None


def set_trainable(model: nn.Module, methods: Iterable[str]) -> None:
    """Let the parameters of some methods be trained, and nothing else."""
    trained = {*methods}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(owner_of(name) in trained and parameter.numel() > 0)


def tensors_of_part(method: str, part: Part) -> dict[str, Tensor]:
    """Return a file's part by the names that a model's state has for its tensors."""
    if method == "bias":
        return dict(part.tensors)
    if method == "adapter":
        places = grouped(part.tensors, NAMES)
        return {f"{place}{ADAPTER}{name}": one[name] for place, one in places.items() for name in NAMES}
    return update_tensors(updates_of(part))


def part_tensors(method: str, state: Mapping[str, Tensor], base: Base) -> dict[str, Tensor]:
    """Return a method's tensors among a model's, as a file's part has them.

    Raises:
        ValueError: some are missing.
    """
    if method == "bias":
        missing = [name for name in biases_in(base) if name not in state]
        if missing:
            raise ValueError(f"the checkpoint has no {missing[0]}")
        return {name: state[name] for name in biases_in(base)}
    if method == "adapter":
        own = {name: tensor for name, tensor in state.items() if ADAPTER in name}
        return {name.replace(ADAPTER, "."): tensor for name, tensor in own.items()}
    found = {}
    for name, update in updates_in(dict(state), 1.0).items():
        found |= {f"{name}.down": update.down, f"{name}.up": update.up}
    return found


def updates_of(part: Part) -> dict[str, Update]:
    """Return the updates of a part of LoRA, by the names of their weights."""
    nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    return {
        name: Update(one["down"], one["up"], *nothing, part.settings["scale"])
        for name, one in grouped(part.tensors, ("down", "up")).items()
    }
