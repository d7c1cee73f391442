"""Checks of a model's folder before a model is made of it: configuration, weights, and their checksums."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ...records.files.inside import check_named
from ...records.files.sealed import parse_json, read_bounded
from ...records.files.sealed_folder import check_sealed

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def class_of(folder: Path, config: PreTrainedConfig, model_class: type | None) -> type[PreTrainedModel]:
    """Return the class to load a folder in.

    Args:
        model_class: a model class; an `AutoModelFor...`, for the class it has for this configuration; None
            for the class the folder was saved from.

    Raises:
        ValueError: there is none, or it is no class of a Transformers model.
    """
    if model_class is None:
        name = (config.architectures or [None])[0]
        found = _named(name, config) if isinstance(name, str) else None
        if found is None:
            raise ValueError(
                f"{folder} was saved from {name}, which this Transformers does not have: give model_class"
            )
        return found
    mapping = getattr(model_class, "_model_mapping", None)
    if mapping is None:
        if not (isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)):
            raise ValueError(f"model_class must be a class of Transformers models, not {model_class!r}")
        return model_class
    if type(config) not in mapping:
        raise ValueError(f"{model_class.__name__} has no class for {type(config).__name__} ({folder})")
    found = mapping[type(config)]
    return found[0] if isinstance(found, (list, tuple)) else found


def _named(name: str, config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """Find the model class of this name: not all of them stand at the top of Transformers."""
    around = type(config).__module__
    beside = around.replace(".configuration_", ".modeling_")
    places = [transformers]
    if beside != around and find_spec(beside):
        places.append(import_module(beside))
    for place in places:
        found = getattr(place, name, None)
        if isinstance(found, type) and issubclass(found, PreTrainedModel):
            return found
    return None


def some(names: list[str]) -> str:
    """Return a text with the first few names."""
    return ", ".join(names[:4]) + (" ..." if names[4:] else "")


def read_config(folder: Path, whole: bool = True) -> PreTrainedConfig:
    """Read the configuration of a folder, after its checksums were compared.

    Args:
        whole: see `check_sealed`.

    Raises:
        FileNotFoundError: it has none, or a listed file is missing.
        ValueError: it is damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not the folder of a model: there is no {path.name} in it")
    check_sealed(folder, whole=whole)
    data = read_json(path)
    if not isinstance(data, dict) or "model_type" not in data:
        raise ValueError(f"{path} is not the configuration of a model")
    return AutoConfig.from_pretrained(folder)


def read_json(path: Path) -> Any:
    """Read a JSON file of a model.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return parse_json(read_bounded(path))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def check_weights(folder: Path) -> None:
    """Refuse weights that are missing or cannot be read, before a model is built.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged.
    """
    names = [WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            names = sorted(set(parse_json(read_bounded(folder / INDEX))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / INDEX} is damaged: {error}") from error
        for name in names:
            check_named(folder, name, folder / INDEX)
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no weights: {name} is missing")
        try:
            with safe_open(folder / name, "pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{folder / name} is damaged: {error}") from error
