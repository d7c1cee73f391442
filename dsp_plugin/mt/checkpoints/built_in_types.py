"""A fairseq checkpoint in built-in types: dictionaries, lists, numbers, texts and tensors.

Such a file loads weights-only with no list of allowed types, so that stock fairseq on torch >= 2.6 can read
it.
"""

import argparse
import enum
import warnings
from typing import Any

import numpy as np
import torch

from .checkpoint import first_line


def to_built_in_types(value: Any) -> Any:
    """Return `value` with every Namespace, NumPy scalar, enum and the like made built-in; tensors stay.

    Raises:
        ValueError: something that no built-in type stands for.
    """
    if value is None or isinstance(value, torch.Tensor) or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, argparse.Namespace):
        return to_built_in_types(vars(value))
    if isinstance(value, dict):
        return {to_built_in_types(key): to_built_in_types(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_built_in_types(item) for item in value]
    if isinstance(value, enum.Enum):
        return to_built_in_types(value.value)
    if isinstance(value, (np.generic, np.ndarray)):
        return to_built_in_types(value.tolist())
    for base in (str, int, float):  # their subclasses
        if isinstance(value, base):
            return base(value)
    raise ValueError(f"a checkpoint cannot hold a {type(value).__name__} as data")


def options_by_section(state: dict[str, Any]) -> dict[str, Any]:
    """Return the checkpoint's options as {section: {name: value}}, from either format of fairseq.

    Raises:
        ValueError: the checkpoint has no options, or ones that this fairseq does not understand.
    """
    if state.get("cfg"):
        return to_built_in_types(state["cfg"])
    if state.get("args") is None:
        raise ValueError("the checkpoint holds no options (neither 'cfg' nor 'args')")
    # before fairseq 0.10.1: one flat Namespace; fairseq knows best what became of its options since
    from fairseq.checkpoint_utils import _upgrade_state_dict
    from omegaconf import OmegaConf

    copy = {**state, "args": argparse.Namespace(**vars(state["args"]))}
    copy.setdefault("optimizer_history", [{"optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}])
    copy["optimizer_history"] = [dict(entry) for entry in copy["optimizer_history"]]
    copy["extra_state"] = {"train_iterator": None, **(state.get("extra_state") or {})}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Hydra's, about the way fairseq calls it
            cfg = _upgrade_state_dict(copy)["cfg"]
        return to_built_in_types(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    except Exception as error:  # whatever Hydra makes of options it does not know
        raise ValueError(
            f"the checkpoint's options are of a fairseq too old to convert ({first_line(error)})"
        ) from error


def checkpoint_to_start_from(
    state: dict[str, Any], cfg: dict[str, Any], model: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """Make a checkpoint of these options and tensors, to generate with or train on from: no optimizer state.

    Of `state` stay the numbers of updates and epochs, and what the criterion and the task have saved.
    """
    history = to_built_in_types(list(state.get("optimizer_history") or []))[-1:]
    iterator = to_built_in_types((state.get("extra_state") or {}).get("train_iterator"))
    return {
        "args": None,
        "cfg": cfg,
        "model": dict(model),
        "criterion": to_built_in_types(state.get("criterion")),
        "optimizer_history": history,
        "task_state": to_built_in_types(state.get("task_state") or {}),
        "extra_state": {"train_iterator": iterator or {"epoch": 1, "iterations_in_epoch": 0}},
    }
