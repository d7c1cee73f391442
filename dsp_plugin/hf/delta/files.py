"""Storing what methods have made of a model, and making it of the base again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...artefacts.base import tensors_of
from ...delta.artefact import OWNER, DeltaFile
from ...delta.parts import Part
from ...delta.stages import in_order
from ..dsee.files import model_entries
from ..dsee.state import base_name
from ..folders.model_folder import class_of
from ..folders.stored_config import config_of_stored
from ..heads.surgery.journal import all_or_nothing
from .adapters import AdapterPart
from .adding import check_free
from .bias import BiasPart
from .diff import DiffPart
from .families import places_of
from .prompt import PromptPart
from .state import Delta, MethodPart, delta_of, has_delta, put_on, set_delta, set_trainable
from .updates import UpdatePart

# what every writing notes anew
_OWN = ("off", "trains_task_head", "base_model")


def save_delta(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    template: str | None = None,
    mapping: Mapping[str, str] | None = None,
    config: Mapping[str, Any] = {},
) -> int:
    """Write all that the methods of a model add to its base, as one file; return its size in bytes.

    Args:
        model: with deltas, at any stage. Methods that are off are stored, too, and off when loaded.
        template, mapping: that the task was learnt with; None for those of the file that was loaded.
        config: plain JSON that is stored, too.

    Raises:
        OSError: it cannot be written; what was there before is still there.
        ValueError: the model has no deltas, or values that are not finite.
    """
    return file_of(model, template=template, mapping=mapping, config=config).save(path)


def file_of(
    model: nn.Module,
    *,
    template: str | None = None,
    mapping: Mapping[str, str] | None = None,
    config: Mapping[str, Any] = {},
) -> DeltaFile:
    """Return what `save_delta` writes."""
    state = delta_of(model)
    parts = {
        method: Part(
            state.stages[method],
            dict(state.parts[method].settings),
            {
                name: tensor.detach().cpu().clone()
                for name, tensor in state.parts[method].tensors(model).items()
            },
        )
        for method in in_order(state.parts)
    }
    parameters = dict(model.named_parameters())
    about = {
        **state.config,
        **config,
        "off": list(in_order(state.off)),
        "trains_task_head": state.trains_task_head,
        "base_model": base_name(model),
        "model_config": in_key_order({**(state.config.get("model_config") or {}), **model_entries(model)}),
    }
    return DeltaFile(
        state.base,
        parts,
        {name: parameters[name].detach().cpu().clone() for name in state.task_head},
        state.template if template is None else template,
        state.mapping if mapping is None else dict(mapping),
        in_key_order(about),
    )


def in_key_order(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Sort entries by their keys, so that a file that is read and written again is the same one."""
    return dict(sorted(entries.items()))


def load_delta(
    model: nn.Module,
    file: str | os.PathLike | DeltaFile,
    *,
    template: str | None = None,
    mapping: Mapping[str, str] | None = None,
    check: bool = True,
) -> Delta:
    """Make of a base, in place, what was stored. All is checked before anything changes.

    The model can be run, trained on (its last stage goes on; `add_delta` begins the next) and saved again.

    Args:
        model: the base, with the task head that the file has one for.
        file: its path, or what `DeltaFile.load` has read.
        template, mapping: those of the caller's data, compared with the file's; None is not compared.
        check: compare the base's hash. False serves where that was done already.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged or of another kind, of another base, template or mapping, or the model has
            deltas already or no place for a part; says which.
    """
    stored = file if isinstance(file, DeltaFile) else DeltaFile.load(file)
    stored.check_template(template, mapping)
    if has_delta(model):
        raise ValueError(f"{type(model).__name__} has deltas already: load into the base, or use a DeltaBank")
    check_free(model)
    check_base(model, stored, check)
    placed = task_head_of(model, stored)
    for name, tensor in placed.items():
        here, there = list(model.get_parameter(name).shape), list(tensor.shape)
        if here != there:
            raise ValueError(
                f"the file's task head {name} has the shape {there}, the model's {here}: build the model "
                "with as many labels"
            )
    with all_or_nothing(model):
        state = state_of(model, stored)
        set_delta(model, state)
        put_on(model, state)
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, tensor in placed.items():
                parameters[name].copy_(tensor)
        set_trainable(model)
    return state


def open_delta(
    file: str | os.PathLike | DeltaFile,
    base: str | os.PathLike,
    model_class: type | None = None,
    **kwargs: Any,
) -> PreTrainedModel:
    """Load a base from its folder (or the hub) and make of it what was stored, in the stored class.

    Args:
        model_class: a model class; None for the one the file was made with.
        kwargs: options of `from_pretrained`.

    Raises:
        FileNotFoundError, ValueError: see `load_delta`.
    """
    stored = file if isinstance(file, DeltaFile) else DeltaFile.load(file)
    config = config_of_stored(base, stored.config.get("model_config"))
    model = class_of(base, config, model_class).from_pretrained(base, config=config, **kwargs)
    load_delta(model, stored)
    return model


def check_base(model: nn.Module, stored: DeltaFile, check: bool = True) -> None:
    """Compare a bare model with the base of a file.

    Raises:
        ValueError: it is another one, or calls its parameters otherwise.
    """
    tensors = tensors_of(model)
    names = stored.base.find(tensors, OWNER)
    if any(name != there for name, there in names.called.items()):
        kind = ", ".join((stored.config.get("model_config") or {}).get("architectures") or ["unknown"])
        raise ValueError(
            "the model has other names for the base's parameters (a bare base model, or one around it): load "
            f"the file into a model of the class it was made with, {kind}"
        )
    if check:
        stored.base.check(tensors, names, OWNER)


def task_head_of(model: nn.Module, stored: DeltaFile) -> dict[str, Tensor]:
    """Return the task head's tensors, whose names the model has.

    Raises:
        ValueError: it lacks one, or has it with other inputs; the number of labels is not looked at.
    """
    parameters = dict(model.named_parameters())
    for name, tensor in stored.task_head.items():
        if name not in parameters:
            raise ValueError(f"the model has no place for {OWNER}'s task head: it lacks {name}")
        there = parameters[name].shape
        if there[1:] != tensor.shape[1:] or len(there) != tensor.dim():
            raise ValueError(
                f"the file's task head {name} has the shape {list(tensor.shape)}, the model's {list(there)}"
            )
    return stored.task_head


def state_of(model: nn.Module, stored: DeltaFile) -> Delta:
    """Make the parts of a file for a bare model, which they are not put on; the model is as before.

    Raises:
        ValueError: the model has no place for one of them.
    """
    places = places_of(model)
    parts: dict[str, MethodPart] = {}
    for method, part in stored.parts.items():
        settings, tensors = part.settings, part.tensors
        if method == "prompt":
            parts[method] = PromptPart.of_file(model, places, settings, tensors)
        elif method == "adapter":
            parts[method] = AdapterPart.of_file(model, places, settings, tensors)
        elif method == "bias":
            parts[method] = BiasPart.of_file(model, settings, tensors, stored.task_head)
        elif method == "diff":
            parts[method] = DiffPart.of_file(model, settings, tensors)
        else:
            parts[method] = UpdatePart.of_file(method, model, settings, tensors)
    owned = [name for method in ("lora", "dsee") if method in parts for name in parts[method].weights]
    if len(owned) != len(set(owned)):
        raise ValueError("the file has two updates beside one matrix")
    off = stored.config.get("off") or []
    if not isinstance(off, list) or not {*off} <= {*parts}:
        raise ValueError("what the file says is off is none of its methods")
    return Delta(
        stored.base,
        parts,
        {method: part.stage for method, part in stored.parts.items()},
        {*off},
        sorted(stored.task_head),
        stored.config.get("trains_task_head") is not False,
        stored.template,
        stored.mapping,
        {key: value for key, value in stored.config.items() if key not in _OWN},
    )
