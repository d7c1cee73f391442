"""A file and its base as one model: a checkpoint of it, or while the base is loaded to translate."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn

from ...delta.artefact import DeltaFile
from ...dsee.merge import merged_weight
from ...options.faults import naming
from ..checkpoints.built_in_types import checkpoint_to_start_from
from ..dsee.deployed import matrix_of
from ..surgery.base_checkpoint import BaseCheckpoint
from ..surgery.frozen_base import in_float
from ..surgery.pruning import dsp_model_options, prepare
from .files import check_file, tensors_of_file
from .layer import tensors_of_part, updates_of
from .starting import options_of

logger = logging.getLogger(__name__)

ARCH = "delta_transformer"


def merge_into(base: BaseCheckpoint, file: DeltaFile) -> dict[str, Any]:
    """Return a checkpoint of the model that a base and a file make.

    Biases and LoRA go into the base's weights, and the model is a plain one. Adapters stay modules beside
    them, and it is a `delta_transformer`.

    Raises:
        ValueError: the file is of another base.
    """
    check_file(file, base)
    source, tensors = base.source, in_float(base.tensors)
    options = dict(source.options)
    if "bias" in file.parts:
        tensors |= file.parts["bias"].tensors
    if "lora" in file.parts:
        for name, update in updates_of(file.parts["lora"]).items():
            tensors[name] = merged_weight(matrix_of(tensors[name], update))
    if "adapter" in file.parts:
        tensors |= tensors_of_part("adapter", file.parts["adapter"])
        own = {"delta_methods": "adapter", "delta_before": None, "lora_r": None, "lora_alpha": None}
        options = with_methods(options, {**options_of(file), **own, "lora_targets": None})
    return checkpoint_to_start_from(source.state, {**source.cfg, "model": options}, tensors)


def with_methods(options: Mapping[str, Any], methods: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a plain model of ours as those of one with methods.

    Args:
        methods: what `options_of` has of a file.
    """
    from fairseq.models import MODEL_DATACLASS_REGISTRY

    known = MODEL_DATACLASS_REGISTRY[ARCH].__dataclass_fields__
    kept = {name: value for name, value in options.items() if name in known}
    return {**kept, **methods, "_name": ARCH}


def options_after(given: Mapping[str, Any], file: DeltaFile) -> dict[str, Any]:
    """Return the options of the model that a file makes of a base with the options `given`.

    Raises:
        ValueError: the base is of another kind of model.
    """
    return with_methods(dsp_model_options({"model": dict(given)}), options_of(file))


def put_when_loaded(model: nn.Module, file: DeltaFile, path: str, given: Mapping[str, Any]) -> None:
    """Put a file into a model, built by `options_after`, as soon as the base's weights are loaded into it.

    Args:
        path: of the file, for messages. given: the options of the base's model.

    Raises, from `load_state_dict`:
        ValueError: they are not those of the file's base.
    """

    def put(module: nn.Module, tensors: dict[str, Any], *_: Any) -> None:
        with naming("--delta", path):
            source = prepare({"cfg": {"model": dict(given)}, "model": dict(tensors)})
            check_file(file, BaseCheckpoint("the model of --path", source))
            whole = {**in_float(source.tensors), **tensors_of_file(file)}
        tensors.clear()
        tensors.update(whole)
        logger.info(f"--delta {path}: {', '.join(file.parts)}, {file.count:,} numbers")

    model.register_load_state_dict_pre_hook(put)
