"""What a model with DSEE knows of itself: its base, its targets, what of it was pruned."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ...artefacts.base import Base
from ...dsee.weight_masks import PackedMask
from ...surgery import KeptHeads
from ..heads.surgery.kept_heads import record_of
from .layer import DseeLinear, dsee_layers
from .targets import Target

_ATTRIBUTE = "dsp_dsee"


@dataclass
class Dsee:
    """The state of a model with DSEE, beside its layers.

    Attributes:
        base: names, shapes and hash of the model before any pruning, its task head left out.
        targets: the matrices with an update, at their present sizes.
        task_head: names of the parameters that are trained dense.
        kept_before: the record of the units the base had, where it was pruned before; else None.
        masks: S1, by the name of the weight, as it lies and at its present size.
        settings: how the update was made: plain JSON, stored in the file.
        masks_updates: updates count only where S1 has left weights.
    """

    base: Base
    targets: list[Target]
    task_head: list[str]
    kept_before: KeptHeads | None = None
    masks: dict[str, PackedMask] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    masks_updates: bool = False


def dsee_of(model: nn.Module) -> Dsee:
    """Return the state of a model with DSEE.

    Raises:
        ValueError: it has none.
    """
    state = model.__dict__.get(_ATTRIBUTE)
    if state is None:
        raise ValueError(f"{type(model).__name__} has no update of DSEE's: add_dsee or load_dsee first")
    return state


def has_dsee(model: nn.Module) -> bool:
    """Return whether a model has an update of DSEE's."""
    return _ATTRIBUTE in model.__dict__


def set_state(model: nn.Module, state: Dsee | None) -> None:
    """Let a model have this state; None to forget it."""
    if state is not None:
        model.__dict__[_ATTRIBUTE] = state
        return
    for name in (_ATTRIBUTE, "peft_config"):
        model.__dict__.pop(name, None)


@contextmanager
def detached(model: nn.Module) -> Iterator[dict[str, DseeLinear]]:
    """Put the frozen matrices in the places of their layers for the block; yields the layers by path.

    What the block does to the matrices stays; they may change their sizes, but not their places.
    """
    layers = dsee_layers(model)
    for path, layer in layers.items():
        _place(model, path, layer.base_layer)
    try:
        yield layers
    finally:
        for path, layer in layers.items():
            _place(model, path, layer)


def kept_of(model: nn.Module) -> KeptHeads | None:
    """Return {block: original numbers of the units it has kept} of a model with or without an update."""
    with detached(model):
        return record_of(model)


def take_off(model: nn.Module) -> None:
    """Put the frozen matrices in the places of their layers, for good."""
    for path, layer in dsee_layers(model).items():
        _place(model, path, layer.base_layer)
    set_state(model, None)


def set_trainable(model: nn.Module, task_head: list[str]) -> None:
    """Let A, B, S2 and the task head be trained, and nothing else."""
    dense = set(task_head)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in dense)
    for layer in dsee_layers(model).values():
        for parameter in (layer.lora_A, layer.lora_B):
            parameter.requires_grad_(True)
        layer.dsee_values.requires_grad_(layer.dsee_values.numel() > 0)


def base_name(model: nn.Module) -> str:
    """Return what a model was loaded from: the last part of a folder's name, or the name on the hub."""
    name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
    return os.path.basename(name.rstrip("/")) if os.path.isdir(name) or os.path.isabs(name) else name


def _place(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
