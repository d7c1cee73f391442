"""Checks of what the small file of a task (a pack, for one) may hold, whoever wrote it, before it is used.

A checksum, which any program can compute, says that a file is as it was written, not that it makes sense.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..options.terminal import printable
from .base import Base

# Far more than any model has; below them products of sizes, and sums of gaps, fit into 64 bits.
MAX_ELEMENTS = 1 << 48
MAX_DIMENSIONS = 16
MAX_NAME = 1000
MAX_DEPTH = 100  # of JSON: what walks over it may take a few calls a level

_ALL = (dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype))
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _ALL}
_HEX = re.compile("[0-9a-f]{64}")
# What a task says of its model, with the types of its values. All else in a config.json is the base's, where
# it can name code to be fetched and run (auto_map, attn_implementation) or change what the base computes.
_MODEL_CONFIG = {
    "architectures": (list,),
    "id2label": (dict,),
    "label2id": (dict,),
    "num_labels": (int,),
    "pad_token_id": (int, type(None)),
    "problem_type": (str, type(None)),
    "finetuning_task": (str, type(None)),
}


@contextlib.contextmanager
def malformed(said: str, *more: type[Exception]) -> Iterator[None]:
    """Turn what reading a malformed file raises, and `more`, into a ValueError: `said`, then why."""
    try:
        yield
    except (SafetensorError, KeyError, TypeError, AttributeError, *more) as error:
        reason = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{said}: {reason}") from None


def parse_json(text: str | bytes, called: str) -> Any:
    """Read JSON of not so many levels that reading it fails.

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{called} is nested too deeply") from None


def check_depth(tree: Any, called: str) -> None:
    """Raise a ValueError where dictionaries and lists are nested more than MAX_DEPTH levels deep."""
    level = [tree]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for outer in level for inner in _inner(outer)]
    if level:
        raise ValueError(f"{called} is nested too deeply (more than {MAX_DEPTH} levels)")


def base_of(hash_: Any, parameters: Any, tied: Any) -> Base:
    """Make the base that a file names.

    Args:
        hash_: SHA-256, hexadecimal. parameters: [[name, dtype, shape], ...]. tied: {name: [other names]}.

    Raises:
        ValueError: they are no such thing, or a name stands there twice.
    """
    if not isinstance(hash_, str) or not _HEX.fullmatch(hash_):
        raise ValueError("the base's hash is no SHA-256")
    if not isinstance(parameters, list) or not isinstance(tied, dict):
        raise ValueError("the base's parameters are no list")
    known: dict[str, tuple[str, tuple[int, ...]]] = {}
    for entry in parameters:
        if not isinstance(entry, list) or len(entry) != 3:
            raise ValueError("a parameter of the base is not [name, dtype, shape]")
        name, dtype, shape = entry
        check_name(name)
        if name in known:
            raise ValueError(f"the base has {name!r} twice")
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise ValueError(f"{name!r} of the base is of no known type")
        known[name] = (dtype, _shape(name, shape))
    others: dict[str, tuple[str, ...]] = {}
    seen = set(known)
    for name, same in tied.items():
        if name not in known or not isinstance(same, list):
            raise ValueError(f"the tied name {name!r} is no parameter's")
        for other in same:
            check_name(other)
            if other in seen:
                raise ValueError(f"the name {other!r} stands for two weights")
            seen.add(other)
        others[name] = tuple(same)
    if not known:
        raise ValueError("the base has no parameters")
    return Base(known, hash_, others)


def check_changed(base: Base, name: str) -> None:
    """Raise a ValueError where the base's `name` is of a type that a few numbers cannot change."""
    if not _DTYPES[base.parameters[name][0]].is_floating_point:
        raise ValueError(f"{name!r} is {base.parameters[name][0]}, which no diff can change")


def check_values(name: str, values: Tensor) -> None:
    """Raise a ValueError for values that are not floating or not finite."""
    if not values.is_floating_point() or not all_finite(values):
        raise ValueError(f"{name!r} holds values that are not finite")


def check_task_head(task_head: Mapping[str, Tensor], base: Base) -> None:
    """Raise a ValueError for a task head with tensors that are empty, not finite, or the base's own."""
    taken = {*base.parameters, *(other for others in base.tied.values() for other in others)}
    for name, tensor in task_head.items():
        check_name(name)
        if name in taken:
            raise ValueError(f"{name!r} is in the task head and in the base")
        if not tensor.dim() or not tensor.numel():
            raise ValueError(f"the task head's {name!r} has the shape {list(tensor.shape)}")
        if not tensor.is_floating_point() or not all_finite(tensor):
            raise ValueError(f"the task head's {name!r} holds values that are not finite")


def all_finite(values: Tensor) -> bool:
    """Return whether no value is infinite or not a number, in any floating dtype."""
    usual = values.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return bool(torch.isfinite(values if usual else values.float()).all())


def check_config(config: Any) -> None:
    """Raise a ValueError for a `config` that is no JSON object, too deep, or says more than a task may."""
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise ValueError("its config is no JSON object")
    check_depth(config, "its config")
    method = config.get("method")
    if method is not None and (not isinstance(method, str) or printable(method, "") != method):
        raise ValueError("its method is no name")
    model_config = config.get("model_config")
    if model_config is None:
        return
    if not isinstance(model_config, dict):
        raise ValueError("its model_config is no JSON object")
    for key, value in model_config.items():
        if key not in _MODEL_CONFIG:
            raise ValueError(f"its model_config sets {key!r}: a task may set {', '.join(_MODEL_CONFIG)}")
        if not isinstance(value, _MODEL_CONFIG[key]) or isinstance(value, bool):
            raise ValueError(f"its model_config sets {key!r} to a value of another kind")
    architectures = model_config.get("architectures", [])
    if not all(isinstance(name, str) and name.isidentifier() for name in architectures):
        raise ValueError("its model_config names architectures that are no classes")
    id2label, label2id = model_config.get("id2label", {}), model_config.get("label2id", {})
    if not all(_number(key) and isinstance(label, str) for key, label in id2label.items()):
        raise ValueError("its model_config's id2label is not {number: label}")
    if not all(isinstance(label, str) and type(number) is int for label, number in label2id.items()):
        raise ValueError("its model_config's label2id is not {label: number}")


def check_config_before(before: str, now: str | None) -> None:
    """Compare the configuration that an undo record holds with that of the model now.

    Raises:
        ValueError: they differ in more than a task may set, so in more than an applied pack has changed.
    """
    try:
        old, new = (parse_json(text or "", "the configuration") for text in (before, now))
        others = {*old, *new} - {*_MODEL_CONFIG}
        different = [k for k in others if k not in old or k not in new or old[k] != new[k]]
    except (ValueError, TypeError) as error:
        raise ValueError(f"cannot revert: config.json is missing or damaged ({error})") from None
    if different:
        keys = ", ".join(map(repr, sorted(different)[:3]))
        raise ValueError(
            f"cannot revert: config.json and the undo record differ in {keys}, which no diff has changed"
        )


def check_name(name: Any) -> None:
    """Raise a ValueError for what no parameter is called."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or printable(name, "") != name:
        raise ValueError(f"{str(name)[:40]!r} is no name of a parameter")


def check_numbers(numbers: Sequence[Any], what: str) -> None:
    """Raise a ValueError unless all are whole numbers of at most 63 bits, none below zero."""
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
        raise ValueError(f"{what} are no whole numbers")


def _shape(name: str, shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"the shape of {name!r} is none")
    check_numbers(shape, f"the sizes of {name!r}")
    if math.prod(shape) > MAX_ELEMENTS or any(size > MAX_ELEMENTS for size in shape):
        raise ValueError(f"{name!r} has the shape {shape}, which no tensor has")
    return tuple(shape)


def _inner(tree: Any) -> Any:
    return tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()


def _number(key: Any) -> bool:
    return isinstance(key, int) or (isinstance(key, str) and key.isascii() and key.isdigit())
