"""What may be built from the options of a checkpoint, and which options each of these declares."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping
from typing import Any, Optional

ALLOW_MODELS = "DSP_ALLOW_MODELS"

NAMES_OF_SECTIONS = ("task", "model", "criterion", "optimizer", "lr_scheduler", "scoring", "bpe", "tokenizer")
_TASKS = {"translation"}
_CRITERIONS = {
    "cross_entropy",
    "label_smoothed_cross_entropy",
    "label_smoothed_cross_entropy_with_alignment",
    "adaptive_loss",
}


def allowed_models() -> set[str]:
    """Return the architectures built from a file: stock `transformer`'s, ours, those of DSP_ALLOW_MODELS."""
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY, ARCH_MODEL_REGISTRY, MODEL_REGISTRY

    known = {**MODEL_REGISTRY, **ARCH_MODEL_REGISTRY}
    ours = {name for name, model in known.items() if _is_ours(model)}
    stock = {name for name, model in ARCH_MODEL_NAME_REGISTRY.items() if model == "transformer"}
    return ours | stock | {"transformer"} | _named_by_user()


def _named_by_user() -> set[str]:
    return {name.strip() for name in os.environ.get(ALLOW_MODELS, "").split(",") if name.strip()}


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def check_model(options: Mapping[str, Any]) -> str:
    """Return the name of the model, which must be one of those that are built from files."""
    names = [options[key] for key in ("_name", "arch") if options.get(key) is not None]
    if not names:
        raise ValueError("its options do not name the model (neither '_name' nor 'arch')")
    allowed = allowed_models()
    for name in names:
        if not isinstance(name, str) or name not in allowed:
            raise ValueError(
                f"its model is {str(name)[:60]!r}; models are built from a file if they are fairseq's "
                "'transformer' or this "
                f"plugin's. If you trust the file, allow others by name: {ALLOW_MODELS}={str(name)[:60]}"
            )
    return names[0]


def class_of(section: str, name: Any) -> Optional[type]:
    """Return the dataclass of a task, criterion ... of this name, if one may be built from a file."""
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY

    if not isinstance(name, str):
        return None
    registry = REGISTRIES.get(section, {})
    classes = TASK_REGISTRY if section == "task" else registry.get("registry", {})
    configs = TASK_DATACLASS_REGISTRY if section == "task" else registry.get("dataclass_registry", {})
    allowed = {"task": _TASKS, "criterion": _CRITERIONS}.get(section)
    if name not in classes or (allowed is not None and name not in allowed and not _is_ours(classes[name])):
        return None
    return configs.get(name)


def model_types(name: str) -> dict[str, Any]:
    """Return an architecture's options by name, with their types; argparse's models have them in a parser."""
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY, ARCH_MODEL_REGISTRY, MODEL_DATACLASS_REGISTRY

    from .flat_config import FlatTransformerConfig

    model = ARCH_MODEL_NAME_REGISTRY.get(name, name)
    if model == "transformer":
        return {**types_of(FlatTransformerConfig), "arch": str}
    if model in MODEL_DATACLASS_REGISTRY:
        return {**types_of(MODEL_DATACLASS_REGISTRY[model]), "arch": str}
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    if name not in ARCH_MODEL_REGISTRY:
        raise ValueError(f"its model is {name!r}, which is not registered: name its plugin with --user-dir")
    ARCH_MODEL_REGISTRY[name].add_args(parser)
    return {**{action.dest: Any for action in parser._actions}, "arch": str}


def types_of(config: type) -> dict[str, Any]:
    return {name: field.type for name, field in config.__dataclass_fields__.items() if name != "_name"}


def declared_anywhere() -> set[str]:
    """Return the names that no checkpoint surprises with: old models keep a whole command line in theirs."""
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.models import MODEL_DATACLASS_REGISTRY
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_DATACLASS_REGISTRY

    def names(configs: Iterable[Optional[type]]) -> list[str]:
        return [
            name
            for config in configs
            if hasattr(config, "__dataclass_fields__")
            for name in config.__dataclass_fields__
        ]

    registries = [registry["dataclass_registry"].values() for registry in REGISTRIES.values()]
    sections = [field.type for field in FairseqConfig.__dataclass_fields__.values()]
    every = (MODEL_DATACLASS_REGISTRY.values(), TASK_DATACLASS_REGISTRY.values(), sections, *registries)
    declared = {name for configs in every for name in names(configs)}
    return declared | set(NAMES_OF_SECTIONS) | {"no_seed_provided"}
