"""Folders of a user's own module, around one or several Transformers models, whose heads were removed.

`model.safetensors` holds its state, `pruned_module.json` the rest: the record of kept heads, by names from
the module on; the names of tied weights, of which the file holds one; and the configurations of the
Transformers models inside. The code of the module is the user's, and so it is the user who builds it: nothing
here is a pickle.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...records.files.sealed import parse_json, read_bounded, write_json
from ...records.files.sealed_folder import check_sealed, warn_no_list
from ...surgery import KeptHeads
from ..heads.gating import boards_of
from ..heads.layouts.locate import transformers_models
from ..heads.surgery.kept_heads import own_configs, record_of
from ..heads.surgery.pruning import prune_to_record
from .hub_folders import Source
from .model_folder import WEIGHTS, some

RECORD = "pruned_module.json"
# of a configuration, what has no share in what a model of the same weights gives
_WITHOUT_EFFECT = {
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "architectures",
    "kept_heads",
    "id2label",
    "label2id",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "gradient_checkpointing",
    "_attn_implementation",
    "_attn_implementation_internal",
    "initializer_range",
    "initializer_factor",
    "init_std",
    "problem_type",
    "tie_word_embeddings",
}


def write_module(module: nn.Module, folder: Path) -> None:
    """Write the state of a pruned module and its record.

    Raises:
        ValueError: a part of its state is no tensor, or has no values.
    """
    aliases = write_state(module, folder)
    gates = [f"{path}." for path in boards_of(module).values() if path is not None]
    models = {
        path: part
        for path, part in module.named_modules()
        if any(part is m for m in transformers_models(module))
    }
    content = {
        "format": 1,
        "class": f"{type(module).__module__}.{type(module).__qualname__}",
        "kept_heads": record_of(module),
        "tied": aliases,
        "gates": gates,
        "configurations": {path: _settings(part) for path, part in models.items()},
    }
    write_json(folder / RECORD, json.dumps(content, indent=1) + "\n")


def write_state(module: nn.Module, folder: Path) -> dict[str, str]:
    """Write `module.state_dict()`, of tied weights one; return {name that was left out: name it is tied to}.

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
    """Return the class of the module that a folder holds; raise a ValueError where the record is damaged."""
    return _read_record(folder)["class"]


def load_module(source: Source, module: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    """Give a module that has all its heads the shapes and the values of a folder, in place: wholly, or not at
    all.

    Args:
        module: or what builds it, called without arguments.

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
            raise FileNotFoundError(
                f"{folder} is not the folder of a pruned module: there is no {RECORD} in it"
            )
        warn_no_list(folder)
    told = _read_record(folder)
    module = _built(module)
    _check_fresh(module, folder)
    skeleton = _skeleton(module)
    try:
        prune_to_record(skeleton, told["kept_heads"])
    except ValueError as error:
        raise ValueError(
            f"{folder} is of another module than this {type(module).__name__}: {error}"
        ) from error
    state = _read_state(folder, told)
    _check_fits(folder, skeleton, state)
    _check_settings(folder, module, told["configurations"])
    own_configs(module)
    prune_to_record(module, told["kept_heads"])
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


def _check_fresh(module: nn.Module, folder: Path) -> None:
    name = type(module).__name__
    if boards_of(module):
        raise ValueError(
            f"the {name} to load {folder} into is gated: build it without gates, and gate it afterwards"
        )
    if record_of(module) is not None:
        raise ValueError(
            f"the {name} to load {folder} into has been pruned already: build it with all its heads"
        )
    empty = [key for key, value in _tensors(module) if value.device.type == "meta"]
    if empty:
        raise ValueError(
            f"the {name} to load {folder} into is on the device `meta` ({some(empty)}): build "
            "it on a real one"
        )


def _skeleton(module: nn.Module) -> nn.Module:
    """Make a copy whose tensors have shapes but no values."""
    memo: dict[int, Any] = {}
    for _, value in _tensors(module):
        empty = torch.empty_like(value, device="meta")
        memo[id(value)] = (
            nn.Parameter(empty, value.requires_grad) if isinstance(value, nn.Parameter) else empty
        )
    return copy.deepcopy(module, memo)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not the folder of a pruned module: there is no {RECORD} in it")
    try:
        told = parse_json(read_bounded(path))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    parts = {"class": str, "kept_heads": dict, "tied": dict, "gates": list, "configurations": dict}
    if not isinstance(told, dict) or any(
        not isinstance(told.get(name), kind) for name, kind in parts.items()
    ):
        raise ValueError(f"{path} is not the record of a pruned module")
    if told.get("format") != 1:
        raise ValueError(f"{path} is of a later version of this package (format {told.get('format')})")
    texts = [*told["tied"].values(), *told["gates"]]
    if not all(isinstance(text, str) for text in texts) or not _is_record(told["kept_heads"]):
        raise ValueError(f"{path} is not the record of a pruned module")
    return told


def _is_record(kept: KeptHeads) -> bool:
    return all(
        isinstance(heads, list) and all(type(head) is int for head in heads) for heads in kept.values()
    )


def _read_state(folder: Path, told: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read all tensors by all their names, but those of gates."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no weights: {WEIGHTS} is missing")
    try:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if not name.startswith(tuple(told["gates"]))]
            state = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    for name, other in told["tied"].items():
        if other not in state:
            raise ValueError(f"{folder} is damaged: {other}, which {name} is tied to, is missing")
        state[name] = state[other]
    return state


def _check_fits(folder: Path, skeleton: nn.Module, state: Mapping[str, Tensor]) -> None:
    expected = {name: value for name, value in skeleton.state_dict().items() if isinstance(value, Tensor)}
    found: list[str] = []
    if missing := sorted(expected.keys() - state.keys()):
        found.append(f"it lacks {some(missing)}")
    if more := sorted(state.keys() - expected.keys()):
        found.append(f"the module has no {some(more)}")
    both = sorted(expected.keys() & state.keys())
    shapes = [name for name in both if expected[name].shape != state[name].shape]
    if shapes:
        told = [
            f"{name} ({list(state[name].shape)} there, {list(expected[name].shape)} here)" for name in shapes
        ]
        found.append(f"of other shapes are {some(told)}")
    if found:
        raise ValueError(
            f"{folder} is of another module than this {type(skeleton).__name__}: {'; '.join(found)}"
        )
    for name in both:
        there, here = state[name].dtype, expected[name].dtype
        if torch.promote_types(there, here) != here:
            raise ValueError(
                f"{folder} holds {name} in {_word(there)}, which the module's {_word(here)} would round: "
                "call "
                f".to(torch.{_word(there)}) on it before, and convert it afterwards"
            )
    _check_ties(folder, skeleton, state)


def _check_ties(folder: Path, skeleton: nn.Module, state: Mapping[str, Tensor]) -> None:
    first: dict[int, str] = {}
    for name, value in _tensors(skeleton):
        other = first.setdefault(id(value), name)
        if name in state and other in state and state[name] is not state[other]:
            if not torch.equal(state[name], state[other]):
                raise ValueError(
                    f"{folder} holds other values for {name} than for {other}, which the module ties together"
                )


def _check_settings(folder: Path, module: nn.Module, told: Mapping[str, Any]) -> None:
    """Refuse other settings: weights that fit do not make the same model where an activation or a number of
    groups is another.
    """
    models = {path: part for path, part in module.named_modules() if path in told and hasattr(part, "config")}
    for path, part in models.items():
        if isinstance(told[path], dict):
            other = _differences(told[path], _settings(part))
            if other:
                raise ValueError(
                    f"{folder} was saved with another configuration of {path or 'the model'} "
                    f"({type(part).__name__}): "
                    f"{some(other)}; build the module with the saved one ({RECORD})"
                )


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], within: str = "") -> list[str]:
    found = []
    for name in sorted(there.keys() & here.keys()):
        if name in _WITHOUT_EFFECT or "drop" in name:
            continue
        one, two = there[name], here[name]
        if isinstance(one, dict) and isinstance(two, dict):
            found += _differences(one, two, f"{within}{name}.")
        elif one != two:
            found.append(f"{within}{name} is {one!r} there, {two!r} here")
    return found


def _settings(model: nn.Module) -> dict[str, Any]:
    return json.loads(model.config.to_json_string(use_diff=False))


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
