"""A delta file and the checkpoints of fairseq's that it comes from, or goes into."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Optional

import torch
from torch import Tensor

from ...artefacts.base import base_hash
from ...delta.artefact import OWNER, DeltaFile
from ...delta.parts import Part
from ...options.faults import naming
from ..checkpoints.built_in_types import to_built_in_types
from ..checkpoints.checkpoint import load_checkpoint
from ..dsee.layer import weights_of
from ..surgery.base_checkpoint import BaseCheckpoint
from ..surgery.frozen_base import check_base, check_frozen, check_noted_base, in_float, made_by
from .layer import METHODS, NAMES, adapter_sizes, biases_in, part_tensors, tensors_of_part
from .starting import NewDelta, blocks_of, options_of

STATE = "delta"
"""Where a checkpoint's task state has what its file says beside the tensors."""

FILE = "task.delta.safetensors"
"""The name of the file in the folder of a stage."""


def read_file(path: str | os.PathLike, option: str = "delta") -> DeltaFile:
    """Read the file that an option names, or the one in the folder that it names.

    Raises:
        OptionError: no such file, a damaged one, one of a newer format, or of methods that fairseq lacks.
    """
    found = os.path.join(path, FILE) if os.path.isdir(path) else path
    with naming(option, path):
        file = DeltaFile.load(found)
        check_kind(file)
    return file


def check_kind(file: DeltaFile) -> None:
    """Raise a ValueError for what a translation model of fairseq's does not have."""
    for method in file.parts:
        _check_method(method)
    if file.config.get("off"):
        raise ValueError(f"some of its methods are off ({file.config['off']}), which is not done on fairseq")
    if file.task_head or file.template is not None:
        raise ValueError("it has a task head or a template, and translation has none")
    options_of(file)


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"it has a part of {method}, and on fairseq there are {', '.join(METHODS)}")


def check_file(file: DeltaFile, base: BaseCheckpoint) -> None:
    """Compare a file with the base that it is to go into.

    Raises:
        ValueError: it is of another base, or its parts are not those that its settings ask for there.
    """
    check_base(file, base.tensors, OWNER)
    for method, part in file.parts.items():
        expected, found = (
            _expected(method, file, base),
            {name: [*t.shape] for name, t in part.tensors.items()},
        )
        if found != expected:
            name = sorted({*found} ^ {*expected} or {n for n in found if found[n] != expected[n]})[0]
            there, here = found.get(name, "nothing"), expected.get(name, "nothing")
            raise ValueError(f"its {method} has {there} for {name}, where by its settings there is {here}")


def _expected(method: str, file: DeltaFile, base: BaseCheckpoint) -> dict[str, list[int]]:
    """Return the names and shapes of a method's tensors by a file's settings."""
    shapes = {name: list(shape) for name, (_, shape) in file.base.parameters.items()}
    if method == "bias":
        return {name: shapes[name] for name in biases_in(file.base)}
    new = NewDelta.of(options_of(file))
    if method == "adapter":
        sizes = adapter_sizes(blocks_of(base), new.adapter, new.adapter_reduction, base.options)
        of = {place: dict(zip(NAMES, ([h, d], [h], [d, h], [d]))) for place, (d, h) in sizes.items()}
        return {f"{place}.{name}": shape for place, one in of.items() for name, shape in one.items()}
    blocks = [one.name for one in base.source.head_map.blocks if not one.neurons and one.num_heads]
    found = {}
    for name in weights_of(blocks, new.roles):
        outputs, inputs = shapes[name]
        found |= {f"{name}.down": [new.lora_r, inputs], f"{name}.up": [outputs, new.lora_r]}
    return found


def tensors_of_file(file: DeltaFile) -> dict[str, Tensor]:
    """Return all parts of a file by the names of the model that has them."""
    found: dict[str, Tensor] = {}
    for method, part in file.parts.items():
        found |= tensors_of_part(method, part)
    return found


def noted(file: DeltaFile) -> dict[str, Any]:
    """Return what a file says beside its tensors, in built-in types, for a checkpoint."""
    last = last_stage(file)
    return {
        "base_hash": file.base.hash,
        "parts": {method: [part.stage, dict(part.settings)] for method, part in file.parts.items()},
        "earlier": earlier_hash({name: one for name, one in file.parts.items() if one.stage < last}),
        "config": dict(file.config),
    }


def last_stage(file: DeltaFile) -> int:
    """Return the number of the last stage of a file."""
    return max(part.stage for part in file.parts.values())


def earlier_hash(parts: Mapping[str, Part]) -> Optional[str]:
    """Return the SHA-256 of what earlier stages have trained, which stays as it is; None for nothing."""
    tensors = {f"{method}.{name}": one for method in parts for name, one in parts[method].tensors.items()}
    return base_hash(tensors) if tensors else None


def file_of_checkpoint(path: str, base: BaseCheckpoint) -> DeltaFile:
    """Return the file of a checkpoint, after a look at whether it is what training can have made.

    Args:
        path: of a training by --task delta_translation. base: what it started from.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: a damaged one, one of another training or base, or whose frozen weights are not the
            base's, or not those of the earlier stages: something has trained them.
    """
    state = load_checkpoint(path)
    said = (state.get("task_state") or {}).get(STATE)
    if not isinstance(said, dict):
        raise ValueError(f"{path} holds no delta: it is of no training by --task delta_translation")
    identity = check_noted_base(said.get("base_hash"), base, path)
    try:
        parts = {}
        for method, (stage, settings) in said["parts"].items():
            _check_method(method)
            tensors = {name: t.clone() for name, t in part_tensors(method, state["model"], identity).items()}
            parts[method] = Part(stage, to_built_in_types(settings), tensors)
        config = {**to_built_in_types(said["config"]), **made_by(state)}
        file = DeltaFile(identity, parts, config=dict(sorted(config.items())))
        file.check()
        check_kind(file)
        check_file(file, base)
        earlier = said["earlier"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: its note of the delta is damaged ({error})") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    check_untrained(state["model"], file, base, earlier, path)
    return file


def check_untrained(
    state: Mapping[str, Tensor], file: DeltaFile, base: BaseCheckpoint, earlier: Optional[str], path: str
) -> None:
    """Compare a checkpoint's frozen weights with the base's and the earlier stages', bit for bit.

    Args:
        file: the checkpoint's. earlier: what `earlier_hash` was when its training began.

    Raises:
        ValueError: they differ.
    """
    own = {*file.parts["bias"].tensors} if "bias" in file.parts else set()
    check_frozen(state, {name: t for name, t in in_float(base.tensors).items() if name not in own}, path)
    last = last_stage(file)
    if earlier_hash({name: one for name, one in file.parts.items() if one.stage < last}) != earlier:
        raise ValueError(f"{path}: something has trained what an earlier stage has left")


def write_file(file: DeltaFile, path: str | os.PathLike) -> int:
    """Write a file, read it back, and compare; return its size in bytes.

    Raises:
        OSError: it cannot be written.
        ValueError: what was read back is another.
    """
    size = file.save(path)
    again = DeltaFile.load(path)
    same = {*again.parts} == {*file.parts} and again.base.hash == file.base.hash
    for method, part in file.parts.items() if same else ():
        there = again.parts[method]
        same = same and there.settings == part.settings and {*there.tensors} == {*part.tensors}
        same = same and all(torch.equal(there.tensors[name], one) for name, one in part.tensors.items())
    if not same:
        raise ValueError(f"{path}: the file read back is another than was written")
    return size
