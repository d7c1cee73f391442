"""A DSEE file of a checkpoint: what a training of stage I or III has made of the file it began with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from ...dsee.artefact import DseeFile, Update
from ...dsee.weight_masks import PackedMask
from ...options.errors import OptionError
from ...options.faults import naming
from ..checkpoints.built_in_types import to_built_in_types
from ..checkpoints.checkpoint import load_checkpoint
from ..heads.checkpoint_heads import head_map_of_state
from ..surgery.base_checkpoint import BaseCheckpoint
from ..surgery.frozen_base import check_frozen, check_noted_base, made_by
from .deployed import alpha_of, check_base, frozen_of, with_updates
from .layer import MARK, roles_in, roles_of, updates_in, weights_of

STATE = "dsee"
"""Where a checkpoint's task state has what its file says beside the updates."""


def read_file(path: str | os.PathLike, option: str = "dsee_checkpoint") -> DseeFile:
    """Read the file that an option names, or the one in the folder that it names.

    Raises:
        OptionError: no such file, a damaged one, one of a newer format.
    """
    found = os.path.join(path, FILE) if os.path.isdir(path) else path
    with naming(option, path):
        return DseeFile.load(found)


FILE = "task.dsee.safetensors"
"""The name of the file in the folder of a stage."""


def check_file(file: DseeFile, base: BaseCheckpoint, path: str | os.PathLike) -> None:
    """Compare the file of --dsee-checkpoint with the base, and look at what training does not do.

    Raises:
        OptionError: it is of another base, or holds what a model of fairseq's does not.
    """
    with naming("dsee_checkpoint", path):
        check_base(file, base.tensors)
        frozen = frozen_of(base.source, file)
        blocks = head_map_of_state(frozen.tensors, frozen.options).blocks
        names = [block.name for block in blocks if not block.neurons and block.num_heads]
        missing = {*weights_of(names, roles_in(file.updates))} ^ {*file.updates}
        if missing:
            raise ValueError(f"it has an update for some blocks alone, without or with {sorted(missing)[0]}")
        if file.task_head:
            raise ValueError("it has a task head, and translation has none")
        if file.config.get("masked") is True:
            raise ValueError("its update is masked, which is not trained here")
    alpha_of(file)


def noted(file: DseeFile) -> dict[str, Any]:
    """Return what a file says beside its updates, in built-in types and tensors, for a checkpoint."""
    return {
        "base_hash": file.base.hash,
        "kept": file.kept,
        "groups": dict(file.groups),
        "masks": {name: [mask.bits, list(mask.shape)] for name, mask in file.masks.items()},
        "config": dict(file.config),
    }


def file_of_checkpoint(path: str, base: BaseCheckpoint, config: Mapping[str, Any] = {}) -> DseeFile:
    """Return the file of a checkpoint, after a look at whether it is what training can have made.

    Args:
        path: of a training by --task dsee_translation. base: what it started from.
        config: joins what the file says of its making.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: a damaged one, one of another training or base, or whose frozen weights are not the
            base's: something has trained them, or a pruned weight is not exactly 0.
    """
    state = load_checkpoint(path)
    said = (state.get("task_state") or {}).get(STATE)
    if not isinstance(said, dict) or not any(MARK in name for name in state["model"]):
        raise ValueError(f"{path} holds no update of DSEE's: it is of no training by --task dsee_translation")
    identity = check_noted_base(said.get("base_hash"), base, path)
    try:
        masks = {name: PackedMask(bits, tuple(shape)) for name, (bits, shape) in said["masks"].items()}
        settings = to_built_in_types(said["config"])
        lora = settings["lora"]
        updates = updates_in(state["model"], lora["lora_alpha"] / lora["r"])
        start = DseeFile(identity, updates, masks, said["kept"], said["groups"], config=settings)
        start.check()
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: its note of DSEE is damaged ({error})") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    check_frozen(state["model"], frozen_of(base.source, start).tensors, path)
    return with_updates(
        start, {name: _copy(one) for name, one in updates.items()}, {**made_by(state), **config}
    )


def write_file(file: DseeFile, path: str | os.PathLike) -> int:
    """Write a file, read it back, and compare; return its size in bytes.

    Raises:
        OSError: it cannot be written.
        ValueError: what was read back is another.
    """
    size = file.save(path)
    again = DseeFile.load(path)
    same = [*again.updates] == [*file.updates] and again.masks == file.masks and again.kept == file.kept
    for name, update in file.updates.items() if same else ():
        there = again.updates[name]
        for part in ("down", "up", "positions", "values"):
            same = same and torch.equal(getattr(update, part), getattr(there, part))
    if not same:
        raise ValueError(f"{path}: the file read back is another than was written")
    return size


def check_given(file: DseeFile, given: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Refuse options of a new update that are not those of the file that a training starts from.

    Args:
        given: the model's options; None for those that were not given.

    Raises:
        OptionError: naming the option.
    """
    rank, alpha = alpha_of(file)
    there = {
        "lora_r": rank,
        "lora_alpha": alpha,
        "num_sparse": file.config.get("num_sparse"),
        "sparse_method": file.config.get("sparse_method"),
        "dsee_targets": ",".join(roles_in(file.updates)),
    }
    for name, value in there.items():
        here = given.get(name)
        if here is None or value is None:
            continue
        if name == "dsee_targets":
            here, value = (",".join(roles_of(text)) for text in (here, value))
        if here != value:
            raise OptionError(name, f"{here}: {path}, of {{}}, has {value}", "dsee_checkpoint")


def _copy(update: Update) -> Update:
    parts = (part.detach().clone() for part in (update.down, update.up, update.positions, update.values))
    return Update(*parts, update.scale)
