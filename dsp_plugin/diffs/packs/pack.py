"""DiffPack: what a task changes in a base, as one small file that is bound to that base."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...artefacts.base import Base, Names, dtype_name, task_head_places, tensors_of
from ...artefacts.content import all_finite, check_changed, check_config, check_task_head
from ..in_training import require_detached
from ..sparse import SparseDiff
from .pack_file import VALUE_DTYPES, pack_bytes, read_pack_file, write_pack_file
from .undo import Change, Undo


@dataclass(frozen=True, repr=False)
class DiffPack:
    """A sparse diff with its task head and the identity of its base.

    Notation: θ0 the base's weights, δ the diff.

    Attributes:
        diff: positions and values δ, by the base's parameter names; `shapes` lists all its parameters.
        base: names, dtypes, shapes and hash of the base.
        task_head: full tensors by name, trained dense.
        config: plain JSON; what made the pack. `model_config`, where it is there, is a dictionary of entries
            that merging writes into the config.json of a Transformers folder: `architectures`, `id2label`,
            `label2id`, `num_labels`, `problem_type`, `finetuning_task`, `pad_token_id`, and no others.
    """

    diff: SparseDiff
    base: Base
    task_head: dict[str, Tensor] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        diff: SparseDiff,
        base: Base,
        task_head: Mapping[str, Tensor] = {},
        config: Mapping[str, Any] = {},
        dtype: str | torch.dtype = torch.float16,
    ) -> DiffPack:
        """Make a pack with its values in `dtype`: float16 (default), bfloat16 or float32.

        The task head keeps the dtypes it has. All tensors are copied, to the CPU.

        Raises:
            ValueError: a parameter that the base does not have or that the task head has too, another shape,
                values or task head not finite, values that `dtype` cannot hold, a `config` that no reader
                takes (content.py), or nothing to store at all.
        """
        dtype = VALUE_DTYPES.get(dtype) if isinstance(dtype, str) else dtype
        if dtype not in VALUE_DTYPES.values():
            raise ValueError(f"dtype must be one of {', '.join(VALUE_DTYPES)}")
        entries = {}
        for name, (positions, values) in diff.entries.items():
            if name not in base.parameters:
                raise ValueError(f"the diff changes '{name}', which the base does not have")
            shape = base.parameters[name][1]
            if tuple(diff.shapes[name]) != shape:
                taken = f"'{name}' to be {list(diff.shapes[name])}"
                raise ValueError(f"the diff takes {taken}, in the base it is {list(shape)}")
            if len(positions):
                rounded = _in_dtype(name, values.detach().cpu(), dtype)
                entries[name] = (positions.detach().cpu().clone(), rounded)
            check_changed(base, name)
        check_task_head(task_head, base)
        check_config(dict(config))
        if not entries and not task_head:
            raise ValueError("there is nothing to pack: the diff has no position and there is no task head")
        shapes = {name: shape for name, (_, shape) in base.parameters.items()}
        ordered = {name: entries[name] for name in base.parameters if name in entries}
        dense = {name: tensor.detach().cpu().clone() for name, tensor in sorted(task_head.items())}
        return cls(SparseDiff(ordered, shapes), base, dense, dict(config))

    def save(self, path: str | os.PathLike) -> int:
        """Write the pack whole or not at all; return the file's size in bytes. See `write_pack_file`."""
        return write_pack_file(path, self.diff, self.base, self.task_head, self.config)

    @classmethod
    def load(cls, path: str | os.PathLike) -> DiffPack:
        """Read a pack. Anything but the very file that `save` wrote is refused, see `read_pack_file`."""
        return cls(*read_pack_file(path))

    def to_bytes(self) -> bytes:
        """Return what `save` writes."""
        return pack_bytes(self.diff, self.base, self.task_head, self.config)

    def __repr__(self) -> str:
        """Show the pack in figures: its tensors would fill pages."""
        task_head = sum(tensor.numel() for tensor in self.task_head.values())
        return (
            f"DiffPack({self.count:,} of {self.base.total:,} weights ({100 * self.density:.3g} %), "
            f"task head of {task_head:,} parameters, base {self.base.hash[:12]})"
        )

    @property
    def count(self) -> int:
        """The number of positions."""
        return self.diff.count

    @property
    def density(self) -> float:
        """The share of the base's weights that have a position."""
        return self.count / self.base.total

    @property
    def nonzeros(self) -> int:
        """The number of values that are not zero; one that underflows in the pack's dtype is zero."""
        return sum(int(values.count_nonzero()) for _, values in self.diff.entries.values())

    def apply(
        self, target: nn.Module | MutableMapping[str, Tensor], check: bool = True, task_head: bool = True
    ) -> Undo:
        """Write θ0 + δ, in the base's dtype, and the task head into a model, in place.

        Everything is checked before the first weight changes.

        Args:
            target: the base: a module, or a dictionary of its weights, which may lack the task head.
            check: compare the hash. False serves where the base was checked already, or for a base in another
                dtype; names and shapes are compared all the same.
            task_head: False leaves the model's own.

        Returns:
            What `revert` needs, bit for bit.

        Raises:
            ValueError: the model is not the base of this pack, has no place for its task head, or cannot hold
                a sum or the task head in its dtype; says why. A `DiffVector` is attached to it.
        """
        if isinstance(target, nn.Module):
            require_detached(target)
        tensors = tensors_of(target)
        called = self.base.find(tensors)
        if check:
            self.base.check(tensors, called)
        changes: dict[str, Change] = {}
        for name, (positions, values) in self.diff.entries.items():
            weight = tensors[called[name]]
            change = change_of(name, weight, positions, values)
            for stored in self._stored(name, called, tensors):
                changes[stored] = change
        placed = self._place_task_head(target, tensors) if task_head else {}
        undo = Undo(changes, placed)
        undo.do(target)
        return undo

    def merge(self, state: Mapping[str, Tensor], check: bool = True) -> dict[str, Tensor]:
        """Return the weights of a model of its own, θ0 + δ and the task head; `state` stays as it is.

        Names are the pack's where `state` is a bare base and the pack was made on a model around it
        (`bert.`).

        Raises:
            ValueError: see `apply`.
        """
        called = self.base.find(state)
        merged, copies = dict(state), {}
        for name in self.diff.entries:
            for stored in (called[name], *map(called.translate, self.base.tied.get(name, ()))):
                if stored in state:
                    # tied weights that share their memory go on sharing it
                    merged[stored] = copies.setdefault(state[stored].data_ptr(), state[stored].clone())
        self.apply(merged, check)
        if not called.here or not self.task_head:
            return merged
        return {name if name in self.task_head else called.here + name: merged[name] for name in merged}

    def _stored(self, name: str, called: Names, tensors: Mapping[str, Tensor]) -> list[str]:
        """List the names that store a changed parameter: more than one for tied weights held twice."""
        stored = [called[name]]
        weight = tensors[called[name]]
        for other in map(called.translate, self.base.tied.get(name, ())):
            copy = tensors.get(other)
            if copy is None or other == called[name] or copy.data_ptr() == weight.data_ptr():
                continue
            if not torch.equal(copy, weight):
                differ = f"{other} and {called[name]} differ, where the diff was made they are one weight"
                raise ValueError(f"wrong base: {differ}")
            stored.append(other)
        return stored

    def _place_task_head(self, target: object, tensors: Mapping[str, Tensor]) -> dict[str, tuple]:
        if not self.task_head:
            return {}
        if not isinstance(target, nn.Module):
            return {name: (tensors.get(name), tensor) for name, tensor in self.task_head.items()}
        called = task_head_places(self.task_head, tensors, "the pack")
        for name, tensor in self.task_head.items():
            in_dtype(name, tensor, tensors[called[name]])
        return {
            called[name]: (tensors[called[name]].detach().clone(), tensor)
            for name, tensor in self.task_head.items()
        }


def change_of(name: str, weight: Tensor, positions: Tensor, values: Tensor) -> Change:
    """Work out what a diff changes in a weight of the base.

    Raises:
        ValueError: a sum θ0 + δ is not finite in the weight's dtype.
    """
    where = positions.to(weight.device)
    old = weight.detach().reshape(-1)[where]  # any shape -> [elements] -> [n]
    new = patched(old, values)
    if not all_finite(new):
        raise ValueError(f"the base's {name} and the diff add up to what {dtype_name(old)} cannot hold")
    return Change(where, old, new)


def patched(old: Tensor, values: Tensor) -> Tensor:
    """Return θ0 + δ at the changed positions, [n] in the dtype of `old`; added in float32 at least."""
    wide = torch.promote_types(old.dtype, torch.float32)
    return (old.to(wide) + values.to(old.device).to(wide)).to(old.dtype)


def in_dtype(name: str, tensor: Tensor, own: Tensor) -> Tensor:
    """Copy a task head's tensor to the device and into the dtype of the model's own.

    Raises:
        ValueError: a value is not finite there.
    """
    copy = tensor.to(own.device, own.dtype, copy=True)
    if not all_finite(copy):
        dtype = dtype_name(own)
        raise ValueError(f"the pack's task head {name} holds values that the model's {dtype} cannot")
    return copy


def _in_dtype(name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"the diff of '{name}' holds values that are not finite")
    rounded = values.to(dtype, copy=True)
    if not bool(torch.isfinite(rounded).all()):
        most = float(values.abs().max())
        raise ValueError(f"the diff of '{name}' holds values up to {most:g}, too large for {dtype}")
    return rounded
