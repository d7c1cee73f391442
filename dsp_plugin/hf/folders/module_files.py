"""Folders of a user's own module, around one or several Transformers models, whose heads were removed.

`model.safetensors` holds its state, `pruned_module.json` the rest: the record of kept heads, by names from
the module on; the names of tied weights, of which the file holds one; and the configurations of the
Transformers models inside. The module is built by the user's own code: nothing here is a pickle.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...records.files.sealed import write_json
from ...records.files.sealed_folder import check_sealed, warn_no_list
from ...surgery import KeptHeads
from ..heads.gating import boards_of
from ..heads.layouts.locate import transformers_models
from ..heads.surgery.kept_heads import neuron_groups_of, own_configs, record_of
from ..heads.surgery.pruning import prune_to_record
from .hub_folders import Source
from .model_folder import WEIGHTS, read_json
from .module_checks import RECORD, check_fits, check_fresh, check_settings, named_tensors, settings_of


def write_module(module: nn.Module, folder: Path) -> None:
    """Write the state of a pruned module and its record.

    Raises:
        ValueError: a part of its state is no tensor, or has no values.
    """
    models = {id(model) for model in transformers_models(module)}
    groups = neuron_groups_of(module)
    content = {
        "format": 1,
        "class": f"{type(module).__module__}.{type(module).__qualname__}",
        "kept_heads": record_of(module),
        **({"neuron_groups": groups} if groups else {}),
        "tied": write_state(module, folder),
        "gates": [f"{path}." for path in boards_of(module).values() if path is not None],
        "configurations": {
            path: settings_of(part) for path, part in module.named_modules() if id(part) in models
        },
    }
    write_json(folder / RECORD, json.dumps(content, indent=1) + "\n")


def write_state(module: nn.Module, folder: Path) -> dict[str, str]:
    """Write `module.state_dict()`, tied weights once; return {name that was left out: name it is tied to}.

    Raises:
        ValueError: a part of it is no tensor, or has no values.
    """
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple, str] = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{name} of {type(module).__name__} is a {type(value).__name__}: only tensors can be saved"
            )
        if value.device.type == "meta":
            raise ValueError(
                f"{name} of {type(module).__name__} is on the device `meta`, and has no values "
                "that could be saved"
            )
        place = value.device, value.data_ptr(), value.dtype, tuple(value.shape), value.stride()
        if value.numel() and place in first:
            aliases[name] = first[place]
            continue
        first[place] = name
        # a copy: safetensors refuses tensors that share a part of their memory
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
    # the names of tied weights are where safetensors' own load_model looks for them, too
    save_file(tensors, folder / WEIGHTS, metadata={**aliases, "format": "pt"})
    return aliases


def is_module_folder(folder: Path) -> bool:
    """Return whether it holds a user's own module."""
    return (folder / RECORD).is_file()


def saved_class(folder: Path) -> str:
    """Return the class of the module that a folder holds.

    Raises:
        ValueError: the record is damaged.
    """
    return _read_record(folder)["class"]


def load_module(source: Source, module: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    """Give a module that has all its heads the shapes and the values of a folder, in place.

    After an error the module is what it was.

    Args:
        module: the module, or a function without arguments that builds it.

    Returns:
        the module, in `eval()` mode.

    Raises:
        FileNotFoundError: no folder of a module, or a file of it is missing.
        ValueError: a file is damaged; the module is gated, pruned or without values; or the folder is of
            another module: names what is missing, what the module does not have and what has another shape or
            type.
    """
    folder = source.folder
    if not check_sealed(folder, whole=source.whole):
        if not is_module_folder(folder):
            missing = f"there is no {RECORD} in it"
            raise FileNotFoundError(f"{folder} is not the folder of a pruned module: {missing}")
        warn_no_list(folder)
    record = _read_record(folder)
    module = _built(module)
    check_fresh(module, folder)
    skeleton = _skeleton(module)
    try:
        prune_to_record(skeleton, record["kept_heads"], record.get("neuron_groups"))
    except ValueError as error:
        name = type(module).__name__
        raise ValueError(f"{folder} is of another module than this {name}: {error}") from error
    state = _read_state(folder, record)
    check_fits(folder, skeleton, state)
    check_settings(folder, module, record["configurations"])
    own_configs(module)
    prune_to_record(module, record["kept_heads"], record.get("neuron_groups"))
    module.load_state_dict(state)
    return module.eval()


def _built(module: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    if isinstance(module, nn.Module):
        return module
    wanted = "give `model` as a module, or as a class or function that builds one without arguments"
    if not callable(module):
        raise ValueError(f"`model` is a {type(module).__name__}: {wanted}")
    try:
        inspect.signature(module).bind()
    except TypeError as error:
        raise ValueError(
            f"{getattr(module, '__name__', module)} cannot be called without arguments ({error}): {wanted}"
        ) from None
    except ValueError:  # no signature to look at
        pass
    built = module()
    if not isinstance(built, nn.Module):
        raise ValueError(f"`model` built a {type(built).__name__}: {wanted}")
    return built


def _skeleton(module: nn.Module) -> nn.Module:
    """Make a copy whose tensors have shapes but no values."""
    memo: dict[int, Any] = {}
    for _, value in named_tensors(module):
        empty = torch.empty_like(value, device="meta")
        is_parameter = isinstance(value, nn.Parameter)
        memo[id(value)] = nn.Parameter(empty, value.requires_grad) if is_parameter else empty
    return copy.deepcopy(module, memo)


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not the folder of a pruned module: there is no {RECORD} in it")
    record = read_json(path)
    refusal = ValueError(f"{path} is not the record of a pruned module")
    parts = {"class": str, "kept_heads": dict, "tied": dict, "gates": list, "configurations": dict}
    if not isinstance(record, dict) or not all(isinstance(record.get(n), kind) for n, kind in parts.items()):
        raise refusal
    if record.get("format") != 1:
        raise ValueError(f"{path} is of a later version of this package (format {record.get('format')})")
    texts = [*record["tied"].values(), *record["gates"]]
    if not all(isinstance(text, str) for text in texts) or not _is_record(record["kept_heads"]):
        raise refusal
    return record


def _is_record(kept: KeptHeads) -> bool:
    lists = [heads for heads in kept.values() if isinstance(heads, list)]
    return len(lists) == len(kept) and all(type(head) is int for heads in lists for head in heads)


def _read_state(folder: Path, record: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read all tensors but those of gates, by all their names."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no weights: {WEIGHTS} is missing")
    try:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if not name.startswith(tuple(record["gates"]))]
            state = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    for name, other in record["tied"].items():
        if other not in state:
            raise ValueError(f"{folder} is damaged: {other}, which {name} is tied to, is missing")
        state[name] = state[other]
    return state
