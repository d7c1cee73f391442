"""Checks that a user's own module is like the one that a folder was saved from: state, weights, settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..heads.gating import boards_of
from ..heads.surgery.kept_heads import record_of
from .model_folder import some

RECORD = "pruned_module.json"
# entries of a configuration that do not change the outputs of a model with the same weights
_WITHOUT_EFFECT = frozenset(
    "_name_or_path transformers_version dtype torch_dtype architectures kept_heads neuron_groups "
    "id2label label2id use_cache output_attentions output_hidden_states return_dict gradient_checkpointing "
    "_attn_implementation _attn_implementation_internal initializer_range initializer_factor init_std "
    "problem_type tie_word_embeddings".split()
)


def check_fresh(module: nn.Module, folder: Path) -> None:
    """Refuse to load a folder into a module that is gated, pruned or without values.

    Raises:
        ValueError: says which, and what to do.
    """
    name = type(module).__name__
    if boards_of(module):
        raise ValueError(
            f"the {name} to load {folder} into is gated: build it without gates, and gate it afterwards"
        )
    if record_of(module) is not None:
        raise ValueError(
            f"the {name} to load {folder} into has been pruned already: build it with all its heads"
        )
    empty = [key for key, value in named_tensors(module) if value.device.type == "meta"]
    if empty:
        raise ValueError(
            f"the {name} to load {folder} into is on the device `meta` ({some(empty)}): build it "
            "on a real one"
        )


def check_fits(folder: Path, skeleton: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Refuse a state with other names, shapes or ties than a module has, or of a finer type.

    Args:
        skeleton: the module with the folder's shapes, without values.
        state: the tensors of the folder by all their names.

    Raises:
        ValueError: names the tensors.
    """
    expected = {name: value for name, value in skeleton.state_dict().items() if isinstance(value, Tensor)}
    found: list[str] = []
    if missing := sorted(expected.keys() - state.keys()):
        found.append(f"it lacks {some(missing)}")
    if more := sorted(state.keys() - expected.keys()):
        found.append(f"the module has no {some(more)}")
    both = sorted(expected.keys() & state.keys())
    shapes = [(name, list(state[name].shape), list(expected[name].shape)) for name in both]
    other = [f"{name} ({there} there, {here} here)" for name, there, here in shapes if there != here]
    if other:
        found.append(f"of other shapes are {some(other)}")
    if found:
        name = type(skeleton).__name__
        raise ValueError(f"{folder} is of another module than this {name}: {'; '.join(found)}")
    for name in both:
        there, here = state[name].dtype, expected[name].dtype
        if torch.promote_types(there, here) != here:
            raise ValueError(
                f"{folder} holds {name} in {_word(there)}, which the module's {_word(here)} would round: "
                f"call .to(torch.{_word(there)}) on it before, and convert it afterwards"
            )
    _check_ties(folder, skeleton, state)


def _check_ties(folder: Path, skeleton: nn.Module, state: Mapping[str, Tensor]) -> None:
    first: dict[int, str] = {}
    for name, value in named_tensors(skeleton):
        other = first.setdefault(id(value), name)
        if name in state and other in state and state[name] is not state[other]:
            if not torch.equal(state[name], state[other]):
                raise ValueError(
                    f"{folder} holds other values for {name} than for {other}, which the module ties together"
                )


def check_settings(folder: Path, module: nn.Module, saved: Mapping[str, Any]) -> None:
    """Refuse other settings, such as another activation: weights that fit do not make the same model then.

    Args:
        saved: path of a Transformers model in the module -> its configuration in the folder.

    Raises:
        ValueError: names the settings that differ.
    """
    for path, part in module.named_modules():
        if isinstance(saved.get(path), dict) and hasattr(part, "config"):
            other = _differences(saved[path], settings_of(part))
            if other:
                raise ValueError(
                    f"{folder} was saved with another configuration of {path or 'the model'} "
                    f"({type(part).__name__}): {some(other)}; build the module with the saved one ({RECORD})"
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


def settings_of(model: nn.Module) -> dict[str, Any]:
    """Return a model's whole configuration as JSON holds it."""
    return json.loads(model.config.to_json_string(use_diff=False))


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and buffer by each of its names."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
