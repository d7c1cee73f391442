"""The undo record that lies beside a model file while a diff is applied to it.

A safetensors file; metadata "dsp_diff_undo" is JSON: the base's identity, the task head's tensors that were
not there before, the text of config.json before, and a checksum of the file. Tensors: "positions.NAME" and
"old.NAME" of every changed weight, "head.NAME" of every task-head tensor that was replaced. That the record
fits is shown by what it leads to: the restored weights must have the base's hash before they are written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...artefacts.base import Base
from ...artefacts.checksum import NO_CHECKSUM, fits, seal
from ...artefacts.content import MAX_ELEMENTS, base_of, check_name, malformed, parse_json
from ...records.files.whole import replacing
from ..sparse import SparseDiff
from .pack import DiffPack
from .undo import Undo, put

_KEY = "dsp_diff_undo"
_VERSION = 1


@dataclass(frozen=True)
class UndoRecord:
    """The changes that a diff made to a stored model.

    Attributes:
        base: whom the restored weights must be equal to.
        old: name → (positions [n], old values [n]).
        task_head: name → old tensor, None where there was none.
        config: text of config.json before; None where it was not changed.
    """

    base: Base
    old: dict[str, tuple[Tensor, Tensor]]
    task_head: dict[str, Tensor | None]
    config: str | None = None

    @classmethod
    def of(cls, undo: Undo, base: Base, config: str | None = None) -> UndoRecord:
        """Make the record of what `DiffPack.apply` changed in a base."""
        old = {name: (change.positions, change.old) for name, change in undo.changes.items()}
        return cls(base, old, {name: before for name, (before, _) in undo.task_head.items()}, config)

    @classmethod
    def from_base(
        cls,
        pack: DiffPack,
        base: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        config: str | None = None,
    ) -> UndoRecord:
        """Make the record for a model `state` to which `pack` was applied, from its base.

        A bare base has no task head. Where the model is one, too, the pack's goes; where it is a model around
        it, whose own one nobody knows any more, it and the configuration stay as they are.

        Args:
            config: text of the base's config.json.

        Raises:
            ValueError: `base` is not the pack's base, or `state` has other parameters.
        """
        called = pack.base.find(base)
        pack.base.check(base, called)
        here = pack.base.find(state)
        old = {}
        for name, (positions, _) in pack.diff.entries.items():
            values = base[called[name]].reshape(-1)[positions]  # any shape -> [elements] -> [n]
            for stored in {here[name], *map(here.translate, pack.base.tied.get(name, ()))} & set(state):
                old[stored] = (positions, values)
        around = (called.here, called.there) != (here.here, here.there)
        task_head = {name: base.get(name) for name in pack.task_head if name in base or not around}
        return cls(pack.base, old, task_head, config if len(task_head) == len(pack.task_head) else None)

    def save(self, path: str | os.PathLike) -> None:
        """Write it whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        tensors = {f"head.{name}": tensor for name, tensor in self.task_head.items() if tensor is not None}
        for name, (positions, values) in self.old.items():
            tensors[f"positions.{name}"], tensors[f"old.{name}"] = positions, values
        parameters = self.base.parameters.items()
        about = {
            "format_version": _VERSION,
            "checksum": NO_CHECKSUM,
            "base_hash": self.base.hash,
            "parameters": [[name, dtype, list(shape)] for name, (dtype, shape) in parameters],
            "tied": {name: list(others) for name, others in self.base.tied.items()},
            "head_added": [name for name, tensor in self.task_head.items() if tensor is None],
            "config": self.config,
        }
        with replacing(path) as temporary:
            copies = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
            save_file(copies, temporary, {_KEY: json.dumps(about)})
            seal(temporary)

    @classmethod
    def load(cls, path: str | os.PathLike) -> UndoRecord:
        """Read a record.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, has no checksum, is of a newer format, or another file.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no undo record at {path}")
        with malformed(f"{path} is not an undo record, or is damaged", ValueError):
            with safe_open(path, "pt") as file:
                about = parse_json((file.metadata() or {})[_KEY], "its header")
                version = about["format_version"]
                if version > _VERSION:
                    raise ValueError(f"format version {version} is newer than this dsp_plugin: update it")
                if "checksum" not in about:
                    raise ValueError("it has no checksum")
                if not fits(path, about["checksum"]):
                    raise ValueError("its content does not fit its checksum")
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            return _content(tensors, about)

    def restore(self, state: MutableMapping[str, Tensor]) -> set[str]:
        """Write the old values into `state`; return the names that were touched. Twice does no harm.

        Raises:
            ValueError: the outcome is not the base, as `state` was changed otherwise; it stays as it was.
        """
        for name, (positions, values) in self.old.items():
            weight = state.get(name)
            if weight is None or weight.dtype != values.dtype:
                raise ValueError(f"cannot revert: the model has no {name} of the type that was changed")
            if len(positions) and not 0 <= int(positions.min()) <= int(positions.max()) < weight.numel():
                raise ValueError(f"cannot revert: {name} has another shape than when it was changed")
        # any shape -> [elements] -> [n]
        before = {name: state[name].reshape(-1)[positions] for name, (positions, _) in self.old.items()}
        whole = {**state, **self.task_head}
        restored = {name: tensor for name, tensor in whole.items() if tensor is not None}
        for name, (positions, values) in self.old.items():
            put(state[name], positions, values)
        try:
            self.base.check(restored, self.base.find(restored))
        except ValueError as error:
            for name, (positions, _) in self.old.items():
                put(state[name], positions, before[name])
            changed = f"the model was changed since the diff was applied ({error})"
            raise ValueError(f"cannot revert: {changed}") from None
        for name in self.task_head:
            state.pop(name, None)
        state.update((name, tensor) for name, tensor in self.task_head.items() if tensor is not None)
        return {*self.old, *self.task_head}


def _content(tensors: dict[str, Tensor], about: Mapping[str, Any]) -> UndoRecord:
    """Make the record that a whole file holds.

    Raises:
        ValueError, KeyError, TypeError: none that `save` could have written.
    """
    base = base_of(about["base_hash"], about["parameters"], about["tied"])
    added, config = about["head_added"], about["config"]
    if config is not None and not isinstance(parse_json(config, "the configuration"), dict):
        raise ValueError("the configuration is no JSON object")
    old: dict[str, tuple[Tensor, Tensor]] = {}
    task_head: dict[str, Tensor | None] = dict.fromkeys(added)
    for key, tensor in tensors.items():
        kind, _, name = key.partition(".")
        check_name(name)
        if kind == "head" and name not in task_head:
            task_head[name] = tensor
        elif kind == "old" and f"positions.{name}" in tensors:
            old[name] = (tensors[f"positions.{name}"], tensor)
        elif kind != "positions" or f"old.{name}" not in tensors:
            raise ValueError(f"it has a tensor {key!r}")
    for name in added:
        check_name(name)
    for name in {*old} & {*task_head}:
        raise ValueError(f"{name!r} is in the task head and among the changed weights")
    # positions that rise and are not below zero; which tensor they are in is seen where they are restored
    SparseDiff(old, dict.fromkeys(old, (MAX_ELEMENTS,)))
    return UndoRecord(base, old, task_head, config)
