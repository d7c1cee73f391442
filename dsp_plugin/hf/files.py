"""Pruned models in folders: saving, loading, and dense copies that stock Transformers loads.

A pruned folder is an ordinary Transformers folder (config.json, safetensors) whose configuration holds `kept_heads`, with a
list of its files and their checksums, which are compared when it is loaded. Stock `from_pretrained` refuses it, because the
shapes differ; `load_pruned` builds the smaller shapes first.
"""

from __future__ import annotations

import copy
import os
import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional, Type

import transformers
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ..reports.files import new_folder, write_text
from ..reports.inside import check_named
from ..reports.sealed import parse_json, read_bounded
from ..reports.sealed_folder import LIST, check_sealed, holds_model, seal_folder, warn_no_list
from .gating import switchboard_of
from .model_card import dense_card, pruned_card
from .pruning import KEPT_HEADS, count_parameters, fill_heads, original_head_map, prune_heads, prune_to_record, record_of

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def save_pruned(
    model: PreTrainedModel, folder: str | os.PathLike, parameters_before: Optional[int] = None, tokenizer: Any = None
) -> None:
    """Write a pruned model: weights, configuration with the record of kept heads, a model card README.md, and checksums.

    `model.save_pretrained` writes the same without card and checksums; `load_pruned` reads both. The folder appears in one
    step: of a model that is there already either all stays or all goes. Other files in it stay.

    Args:
        model: after `prune_heads`, or from `load_pruned`.
        folder: made if it does not exist.
        parameters_before: weights of the model with all its heads; worked out where not given.
        tokenizer: saved with it, if given.

    Raises:
        ValueError: the model has all its heads and no record.
        OSError: the folder cannot be written.
    """
    if record_of(model) is None:
        raise ValueError("the model has not been pruned: prune_heads(model, keep) first, or use model.save_pretrained")
    before = parameters_before or count_parameters(_dense_copy(model))
    card = pruned_card(model, original_head_map(model), record_of(model), before, count_parameters(model))
    with new_folder(folder, None, _is_no_model) as made:
        model.save_pretrained(made)
        write_text(made / "README.md", card)
        if tokenizer is not None:
            tokenizer.save_pretrained(made)
        seal_folder(made)


def load_pruned(folder: str | os.PathLike, model_class: Optional[Type] = None, **kwargs: Any) -> Any:
    """A pruned model from its folder, ready to run, train, gate or prune again.

    Args:
        folder: written by `save_pruned`, or by `save_pretrained` of a pruned model (a Trainer's checkpoint).
        model_class: a model class, or an `AutoModelFor...`; None for the class it was saved from. A task head that
            the folder does not have is new, as with stock `from_pretrained`; one of another size has to be asked for
            by `ignore_mismatched_sizes=True`.
        kwargs: for `from_pretrained`, such as `dtype`, `device_map`, `num_labels`, `attn_implementation` (a stock name);
            with `output_loading_info=True` model and loading information are returned, as there.

    Raises:
        FileNotFoundError: the folder, its configuration or (a part of) its weights are missing.
        ValueError: a file is damaged or another one than was saved, there is no record of kept heads, or it is of another model; names the folder.
    """
    folder = Path(folder)
    config = _read_config(folder)
    record = getattr(config, KEPT_HEADS, None)
    if record is None:
        raise ValueError(f"{folder} has no record of kept heads (`{KEPT_HEADS}` in config.json): load it with from_pretrained")
    if not (folder / LIST).is_file():
        warn_no_list(folder)
    _check_weights(folder)
    stock = _class_of(folder, config, model_class)
    other_head, tell = kwargs.pop("ignore_mismatched_sizes", False), kwargs.pop("output_loading_info", False)
    try:
        model, loading = _with_shapes(stock, record).from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
    except ValueError as error:
        raise ValueError(f"{folder} cannot be loaded: {error}") from error
    wrong = sorted(key if isinstance(key, str) else key[0] for key in loading["mismatched_keys"])
    if any(block in key for key in wrong for block in record):
        raise ValueError(f"{folder} does not fit its own record of kept heads: {_some(wrong)} have other shapes")
    if wrong and not other_head:
        raise ValueError(
            f"{folder} has other shapes than {stock.__name__} wants of {_some(wrong)}: "
            "give ignore_mismatched_sizes=True to begin with a new task head"
        )
    missing = sorted(loading["missing_keys"])
    if missing and stock.__name__ in (config.architectures or []):
        raise ValueError(f"{folder} is damaged: its weights lack {_some(missing)}")
    model.__class__ = stock  # the class that only builds the shapes has done its work
    return (model, loading) if tell else model


def load_model(folder: str | os.PathLike, **kwargs: Any) -> PreTrainedModel:
    """The model of a local folder in the class it was saved from, pruned or not.

    Args:
        kwargs: for `from_pretrained`.

    Raises:
        FileNotFoundError, ValueError: see `load_pruned`.
    """
    folder = Path(folder)
    config = _read_config(folder)
    if getattr(config, KEPT_HEADS, None) is not None:
        return load_pruned(folder, **kwargs)
    try:
        return _class_of(folder, config, None).from_pretrained(folder, **kwargs)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{folder} cannot be loaded: {error}") from error


def export_dense(model: PreTrainedModel | str | os.PathLike, out: str | os.PathLike) -> None:
    """Write a model of the original sizes, removed heads as zeros: any program that knows the architecture loads it.

    The outputs are those of the pruned model. The given model is not changed.

    Args:
        model: a pruned model, a gated one (its mask is applied), or the folder of a pruned one.
        out: folder to write.

    Raises:
        FileNotFoundError, ValueError: see `load_pruned`.
        ValueError: the model has neither a record of kept heads nor gates, or `out` is the folder it is read from.
    """
    if not isinstance(model, PreTrainedModel):
        if Path(model).resolve() == Path(out).resolve():
            raise ValueError(f"{out} is the folder of the pruned model itself: export to another one")
        model = load_pruned(model)
    if switchboard_of(model) is not None:
        model = copy.deepcopy(model)
        prune_heads(model)
    if record_of(model) is None:
        raise ValueError("the model has all its heads: there is nothing to export that save_pretrained does not write")
    dense = _dense_copy(model)
    with new_folder(out, None, _is_no_model) as made:
        dense.save_pretrained(made)
        write_text(made / "README.md", dense_card(dense, original_head_map(model), record_of(model)))


def _is_no_model(name: str) -> bool:
    return not holds_model(name)


def _dense_copy(model: PreTrainedModel) -> PreTrainedModel:
    dense = copy.deepcopy(model)
    fill_heads(dense)
    return dense


def _with_shapes(stock: Type[PreTrainedModel], record: Dict[str, Any]) -> Type[PreTrainedModel]:
    """A class that is `stock`, but for smaller projections. It lets `from_pretrained` do all the rest."""

    def __init__(self, config, *args, **kwargs):
        stock.__init__(self, config, *args, **kwargs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            prune_to_record(self, record)

    # under the very name of the stock class: Transformers looks classes up by it
    names = {"__init__": __init__, "__module__": stock.__module__, "__qualname__": stock.__qualname__}
    return type(stock.__name__, (stock,), names)


def _class_of(folder: Path, config: PreTrainedConfig, model_class: Optional[Type]) -> Type[PreTrainedModel]:
    if model_class is None:
        name = (config.architectures or [None])[0]
        found = getattr(transformers, name, None) if name else None
        if found is None:
            raise ValueError(f"{folder} was saved from {name}, which this Transformers does not have: give model_class")
        return found
    mapping = getattr(model_class, "_model_mapping", None)
    if mapping is None:
        return model_class
    if type(config) not in mapping:
        raise ValueError(f"{model_class.__name__} has no class for {type(config).__name__} ({folder})")
    found = mapping[type(config)]
    return found[0] if isinstance(found, (list, tuple)) else found


def _some(names: List[str]) -> str:
    return ", ".join(names[:4]) + (" ..." if names[4:] else "")


def _read_config(folder: Path) -> PreTrainedConfig:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not the folder of a model: there is no {path.name} in it")
    check_sealed(folder)
    try:
        data = parse_json(read_bounded(path))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(data, dict) or "model_type" not in data:
        raise ValueError(f"{path} is not the configuration of a model")
    return AutoConfig.from_pretrained(folder)


def _check_weights(folder: Path) -> None:
    """Raises for weights that are missing or cannot be read, before a model is built."""
    names = [_WEIGHTS]
    if (folder / _INDEX).is_file():
        try:
            names = sorted(set(parse_json(read_bounded(folder / _INDEX))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / _INDEX} is damaged: {error}") from error
        for name in names:
            check_named(folder, name, folder / _INDEX)
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no weights: {name} is missing")
        try:
            with safe_open(folder / name, "pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{folder / name} is damaged: {error}") from error
