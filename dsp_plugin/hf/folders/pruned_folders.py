"""Folders of pruned models: saving, loading, and dense copies that stock Transformers loads.

A pruned folder is an ordinary Transformers folder (config.json, safetensors) whose configuration holds
`kept_heads`, with a list of its files and their checksums, which are compared when it is loaded. Stock
`from_pretrained` refuses it, because the shapes differ; `load_pruned` builds the smaller shapes first. The
folder of a user's own module is in `module_files`.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from ...records.files.sealed_folder import LIST, holds_model, seal_folder, warn_no_list
from ...records.files.whole import new_folder, write_text
from ..heads.gating import switchboard_of
from ..heads.layouts.size_probe import STOCK
from ..heads.surgery.journal import left_as_it_was
from ..heads.surgery.kept_heads import KEPT_HEADS, NEURON_GROUPS, own_configs, record_of, write_record
from ..heads.surgery.pruning import (
    check_pruned,
    count_parameters,
    fill_heads,
    original_head_map,
    prune_heads,
    prune_to_record,
)
from ..heads.units import recorded_units
from .hub_folders import Source, find_folder
from .model_card import dense_card, pruned_card
from .model_folder import check_weights, class_of, read_config, some
from .module_files import RECORD, is_module_folder, load_module, saved_class, write_module, write_state


def save_pruned(
    model: nn.Module,
    folder: str | os.PathLike,
    parameters_before: int | None = None,
    tokenizer: Any = None,
    check: bool | Mapping[str, Any] = True,
) -> None:
    """Write a pruned model: weights, the record of kept heads, a model card README.md, and checksums.

    A Transformers model has the record in its configuration: `model.save_pretrained` writes the same without
    card and checksums, and `load_pruned` reads both. A user's own module around Transformers models has it in
    pruned_module.json. The folder is written in one step: a model that is there already is replaced wholly or
    not at all. Other files in it stay.

    Args:
        model: pruned by `prune_heads`, or loaded by `load_pruned`.
        folder: made if it does not exist.
        parameters_before: weights of the model with all its heads; counted where not given.
        tokenizer: saved with the model, if given.
        check: the model runs once on a small random batch beside a copy of it with zeros in the place of
            removed heads, and nothing is written if their outputs differ. False for no check; a mapping of
            `model`'s keyword arguments to check it with these.

    Raises:
        ValueError: the model has all its heads and no record, or other outputs than its dense copy; a part of
            the state of a user's own module is no tensor.
        OSError: the folder cannot be written.
    """
    _check_merged(model)
    if record_of(model) is None:
        raise ValueError(
            "the model has not been pruned: prune_heads(model, keep) first, or use model.save_pretrained"
        )
    if check is not False:
        check_pruned(model, None if check is True else check)
    before = parameters_before or count_parameters(_dense_copy(model))
    card = pruned_card(model, original_head_map(model), record_of(model), before, count_parameters(model))
    with new_folder(folder, None, _is_no_model) as made:
        if isinstance(model, PreTrainedModel):
            with left_as_it_was(model):
                own_configs(model)  # which do not say it yet where a part was pruned by itself
                write_record(model)
                model.save_pretrained(made)
        else:
            write_module(model, made)
        write_text(made / "README.md", card)
        if tokenizer is not None:
            tokenizer.save_pretrained(made)
        seal_folder(made)


def load_pruned(
    folder: str | os.PathLike,
    model_class: type | None = None,
    model: nn.Module | Callable[[], nn.Module] | None = None,
    **kwargs: Any,
) -> Any:
    """Load a pruned model from its folder, ready to run, train, gate or prune again.

    Args:
        folder: written by `save_pruned`, or by `save_pretrained` of a pruned model (a Trainer's checkpoint);
            or the name of such a model on the hub, where there is no folder of this name.
        model_class: a model class, or an `AutoModelFor...`; None for the class it was saved from. A task head
            that the folder does not have is new, as with stock `from_pretrained`; one of another size has to
            be asked for by `ignore_mismatched_sizes=True`.
        model: for the folder of a user's own module, and only there: the module as its class makes it, with
            all its heads and any weights, or a function without arguments that makes it. It gets the folder's
            shapes and values in place, or stays as it is where they do not fit.
        kwargs: options of `from_pretrained`, such as `dtype`, `device_map`, `num_labels`,
            `attn_implementation` (a stock name), and for the hub `revision`, `token`, `cache_dir`,
            `local_files_only`; with `output_loading_info=True` model and loading information are returned.

    Returns:
        the model, in `eval()` mode.

    Raises:
        FileNotFoundError: the folder, its configuration or (a part of) its weights are missing, and the hub
            has no such model.
        ValueError: a file is damaged or not the one that was saved, there is no record of kept heads, or it
            is of another model, or of another kind than was asked for; names the folder.
    """
    source = find_folder(folder, kwargs)
    if model is None and not is_module_folder(source.folder):
        return _load(source, model_class, kwargs)
    _check_kind(source.folder, model, model_class, kwargs)
    return load_module(source, model)


def load_model(folder: str | os.PathLike | Source, **kwargs: Any) -> PreTrainedModel:
    """Load the model of a folder, or of the hub, in the class it was saved from, pruned or not.

    Args:
        kwargs: options of `from_pretrained`.

    Raises:
        FileNotFoundError, ValueError: see `load_pruned`.
    """
    source = find_folder(folder, kwargs)
    _check_kind(source.folder, None, None, {})
    config = read_config(*source)
    if getattr(config, KEPT_HEADS, None) is not None:
        return _load(source, None, kwargs)
    try:
        return class_of(source.folder, config, None).from_pretrained(source.folder, **kwargs)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{source.folder} cannot be loaded: {error}") from error


def export_dense(model: nn.Module | str | os.PathLike, out: str | os.PathLike) -> None:
    """Write a model in its original sizes, with zeros for removed heads, as any stock program loads it.

    Its outputs are those of the pruned model, which is not changed. A user's own module is written as its
    weights alone, for `safetensors.torch.load_model`.

    Args:
        model: a pruned model, a gated one (its mask is applied), or the folder of a pruned Transformers
            model.
        out: folder to write.

    Raises:
        FileNotFoundError, ValueError: see `load_pruned`.
        ValueError: the model has neither a record of kept heads nor gates, or `out` is the folder it is read
            from.
    """
    if not isinstance(model, nn.Module):
        if Path(model).resolve() == Path(out).resolve():
            raise ValueError(f"{out} is the folder of the pruned model itself: export to another one")
        source = find_folder(model, {})
        _check_kind(source.folder, None, None, {})
        model = _load(source, None, {})
    _check_merged(model)
    if switchboard_of(model) is not None:
        model = copy.deepcopy(model)
        prune_heads(model)
    if record_of(model) is None:
        raise ValueError(
            "the model has all its heads: there is nothing to export that save_pretrained does not write"
        )
    dense = _dense_copy(model)
    with new_folder(out, None, _is_no_model) as made:
        if isinstance(dense, PreTrainedModel):
            dense.save_pretrained(made)
        else:
            write_state(dense, made)
        write_text(made / "README.md", dense_card(dense, original_head_map(model), record_of(model)))


def _check_merged(model: nn.Module) -> None:
    """Raise a ValueError where a part of the model has an adapter on it, which its folder would not hold."""
    for path, module in model.named_modules():
        if isinstance(getattr(module, "base_layer", None), nn.Module):
            raise ValueError(
                f"{path} has an update beside it, which such a folder does not hold: merge it first "
                "(merge_dsee, or PEFT's merge_and_unload)"
            )


def _load(source: Source, model_class: type | None, kwargs: dict[str, Any]) -> Any:
    """Load a pruned Transformers model. Arguments and errors: see `load_pruned`."""
    folder = source.folder
    config = read_config(*source)
    record = getattr(config, KEPT_HEADS, None)
    if record is None:
        raise ValueError(
            f"{folder} has no record of kept heads (`{KEPT_HEADS}` in config.json): load it with "
            "from_pretrained"
        )
    if not (folder / LIST).is_file():
        warn_no_list(folder)
    check_weights(folder)
    stock = class_of(folder, config, model_class)
    new_task_head = kwargs.pop("ignore_mismatched_sizes", False)
    with_loading_info = kwargs.pop("output_loading_info", False)
    try:
        model, loading = _with_shapes(stock, record, getattr(config, NEURON_GROUPS, None)).from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
    except ValueError as error:
        raise ValueError(f"{folder} cannot be loaded: {error}") from error
    wrong = sorted(key if isinstance(key, str) else key[0] for key in loading["mismatched_keys"])
    cut = _cut_weights(model)
    if any(block in key for key in wrong for block in record) or cut & set(wrong):
        names = some(wrong)
        raise ValueError(f"{folder} does not fit its own record of kept heads: {names} have other shapes")
    if wrong and not new_task_head:
        raise ValueError(
            f"{folder} has other shapes than {stock.__name__} wants of {some(wrong)}: "
            "give ignore_mismatched_sizes=True to begin with a new task head"
        )
    missing = sorted(loading["missing_keys"])
    if missing and stock.__name__ in (config.architectures or []):
        raise ValueError(f"{folder} is damaged: its weights lack {some(missing)}")
    model.__class__ = stock  # the class that only builds the shapes has done its work
    return (model, loading) if with_loading_info else model


def _is_no_model(name: str) -> bool:
    return not holds_model(name)


def _check_kind(folder: Path, model: Any | None, model_class: type | None, kwargs: dict[str, Any]) -> None:
    """Refuse to load a Transformers model as a user's own module, or the other way round.

    Raises:
        ValueError: says which call to use.
    """
    if is_module_folder(folder):
        if model is None:
            raise ValueError(
                f"{folder} holds a module of a user's own ({saved_class(folder)}), which has to be built "
                "first: load_pruned(folder, model=my_module)"
            )
        given = sorted([*kwargs, *(["model_class"] if model_class is not None else [])])
        if given:
            refused = f"{some(given)} cannot be given beside `model`"
            raise ValueError(f"{folder} holds a module of a user's own: {refused}")
    elif model is not None and (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} was saved from a Transformers model, and not from a user's own module ({RECORD} is "
            "missing): load_pruned(folder), without `model`"
        )


def _dense_copy(model: nn.Module) -> nn.Module:
    dense = copy.deepcopy(model)
    fill_heads(dense)
    return dense


def _cut_weights(model: PreTrainedModel) -> set[str]:
    """Return the names of all weights that are of units in the record."""
    projections = [part.module for one in recorded_units(model) for part in one.projections]
    cut = {id(weight) for module in projections for weight in module.parameters()}
    return {name for name, weight in model.named_parameters(remove_duplicate=False) if id(weight) in cut}


def _with_shapes(
    stock: type[PreTrainedModel], record: dict[str, Any], groups: dict[str, int] | None
) -> type[PreTrainedModel]:
    """Make a class that is `stock` but for smaller projections. It lets `from_pretrained` do the rest."""

    def __init__(self, config, *args, **kwargs):
        stock.__init__(self, config, *args, **kwargs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            prune_to_record(self, record, groups)

    def _init_weights(self, module):
        # some work out a spread by the number of input features, of which a block without heads has none
        if not all(weight.numel() for weight in module.parameters(recurse=False)):
            return
        try:
            stock._init_weights(self, module)
        except ZeroDivisionError:  # of a part of it
            if all(weight.numel() for weight in module.parameters()):
                raise

    # under the very name of the stock class: Transformers looks classes up by it
    own = {"__init__": __init__, "_init_weights": _init_weights, STOCK: stock}
    names = {**own, "__module__": stock.__module__, "__qualname__": stock.__qualname__}
    return type(stock.__name__, (stock,), names)
