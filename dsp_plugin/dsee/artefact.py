"""DseeFile: what DSEE makes of a base for a task, as one small file that is bound to that base.

    metadata "dsp_dsee"     JSON: format_version, checksum, base_hash, config
    tensor   "index"        see artefacts/bound_file.py; beside the base's parameters: kept {block: numbers of
                            the units that were kept}, groups {block: neurons in a group}, updates [[name,
                            shape, scale], ...], masks [[name, shape], ...]
    tensors  "down.N" [r, n], "up.N" [m, r]          A and B of update number N
    tensors  "positions.N" int32 or int64, "values.N"    S2, [entries]; positions into the flattened [m, n]
    tensors  "mask.N" uint8                          S1, a bit a weight, of mask number N
    tensors  "head.NAME"                             the dense task head

Matrices are named as the base's weights are. Units are taken out first: all shapes are those of what is left.
A weight that the host stores as [n, m] (GPT-2's Conv1D) has its update as [m, n], and its mask as it lies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..artefacts.base import Base
from ..artefacts.bound_file import FileKind, Stored, index_tensor, read_index, stored
from ..artefacts.content import (
    check_changed,
    check_config,
    check_name,
    check_numbers,
    check_task_head,
    check_values,
)
from .weight_masks import PackedMask

FORMAT_VERSION = 1
OWNER = "the DSEE file"  # in messages on a base that is another one


@dataclass(frozen=True)
class Update:
    """The update of one matrix [m, n].

    Attributes:
        down: A [r, n]. up: B [m, r]. positions, values: S2, [N] rising into the flattened matrix, and [N].
        scale: s.
    """

    down: Tensor
    up: Tensor
    positions: Tensor
    values: Tensor
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """[m, n]."""
        return self.up.shape[0], self.down.shape[1]

    @property
    def count(self) -> int:
        """The number of trained numbers."""
        return self.down.numel() + self.up.numel() + self.values.numel()

    def check(self, name: str) -> None:
        """Raise a ValueError unless all parts fit together and are finite."""
        if self.down.dim() != 2 or self.up.dim() != 2 or self.down.shape[0] != self.up.shape[1]:
            raise ValueError(f"the low rank of {name!r} is none")
        for part in (self.down, self.up, self.values):
            check_values(name, part)
        where, size = self.positions, math.prod(self.shape)
        if where.dtype not in (torch.int32, torch.int64) or where.dim() != 1:
            raise ValueError(f"the positions of {name!r} are no list of whole numbers")
        if self.values.shape != where.shape:
            raise ValueError(f"{name!r} has {self.values.numel()} values for {len(where)} positions")
        rising = not len(where) or bool((where[1:] > where[:-1]).all())
        if not rising or len(where) and not 0 <= int(where[0]) <= int(where[-1]) < size:
            raise ValueError(f"the positions of {name!r} do not rise, or leave the matrix")
        if not (isinstance(self.scale, float) and math.isfinite(self.scale)):
            raise ValueError(f"the scale of {name!r} is none")


@dataclass(frozen=True)
class DseeFile(Stored):
    """Everything a task adds to its base, and takes from it.

    Attributes:
        base: names, dtypes, shapes and hash of the base before any pruning.
        updates: by the name of the weight. masks: S1, by the name of the weight.
        kept: {block: original numbers of the units kept}; None where none was removed.
        groups: {block: neurons in a group} for the feed-forward blocks in `kept`.
        task_head: full tensors by name, trained dense.
        config: plain JSON; `model_config` in it as in diff packs.
    """

    kind: ClassVar[FileKind] = FileKind("dsp_dsee", "DSEE file", FORMAT_VERSION)

    base: Base
    updates: dict[str, Update]
    masks: dict[str, PackedMask] = field(default_factory=dict)
    kept: dict[str, list[int]] | None = None
    groups: dict[str, int] = field(default_factory=dict)
    task_head: dict[str, Tensor] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise a ValueError for what no reader takes."""
        if not self.updates:
            raise ValueError("there is nothing to store: no matrix has an update")
        for name, update in self.updates.items():
            check_changed(self.base, _known(name, self.base))
            update.check(name)
        for name, mask in self.masks.items():
            _check_within(name, mask.shape, self.base.parameters[_known(name, self.base)][1])
        for name, update in self.updates.items():
            whole = self.base.parameters[name][1]
            if len(whole) != 2 or not (
                _within(update.shape, whole) or _within(update.shape, tuple(reversed(whole)))
            ):
                raise ValueError(f"the update of {name!r} is of another shape than the base's {list(whole)}")
        _check_kept(self.kept, self.groups)
        check_task_head(self.task_head, self.base)
        check_config(self.config)

    def to_bytes(self) -> bytes:
        """Return what `save` writes, the same bytes for the same content."""
        self.check()
        tensors = {f"head.{name}": stored(part) for name, part in self.task_head.items()}
        for number, update in enumerate(self.updates.values()):
            narrow = math.prod(update.shape) <= torch.iinfo(torch.int32).max
            tensors[f"down.{number}"], tensors[f"up.{number}"] = stored(update.down), stored(update.up)
            tensors[f"positions.{number}"] = stored(update.positions.int() if narrow else update.positions)
            tensors[f"values.{number}"] = stored(update.values)
        for number, mask in enumerate(self.masks.values()):
            tensors[f"mask.{number}"] = stored(mask.bits)
        more = {
            "kept": self.kept,
            "groups": self.groups,
            "updates": [[name, list(one.shape), one.scale] for name, one in self.updates.items()],
            "masks": [[name, list(mask.shape)] for name, mask in self.masks.items()],
        }
        tensors["index"] = index_tensor(self.base, more)
        return self.kind.to_bytes(tensors, {"base_hash": self.base.hash, "config": self.config})

    @classmethod
    def of_content(cls, tensors: dict[str, Tensor], about: Mapping[str, Any]) -> DseeFile:
        return _content(tensors, about)

    @property
    def count(self) -> int:
        """The number of trained numbers: A, B, S2 and the task head."""
        return sum(one.count for one in self.updates.values()) + sum(
            part.numel() for part in self.task_head.values()
        )


def _content(tensors: dict[str, Tensor], about: Mapping[str, Any]) -> DseeFile:
    base, index = read_index(tensors.pop("index"), about["base_hash"])
    updates: dict[str, Update] = {}
    for number, (name, shape, scale) in enumerate(_entries(index["updates"], 3)):
        parts = [tensors.pop(f"{part}.{number}") for part in ("down", "up", "positions", "values")]
        if name in updates:
            raise ValueError(f"{name!r} has two updates")
        updates[name] = Update(parts[0], parts[1], parts[2].long(), parts[3], scale)
        if parts[2].dtype not in (torch.int32, torch.int64) or list(updates[name].shape) != shape:
            raise ValueError(f"the update of {name!r} is not of the shape that is announced")
    masks: dict[str, PackedMask] = {}
    for number, (name, shape) in enumerate(_entries(index["masks"], 2)):
        if name in masks:
            raise ValueError(f"{name!r} has two masks")
        check_numbers(shape, f"the sizes of {name!r}")
        _check_within(name, tuple(shape), base.parameters[_known(name, base)][1])
        masks[name] = PackedMask(tensors.pop(f"mask.{number}"), tuple(shape))
    task_head = {name[len("head.") :]: tensors.pop(name) for name in sorted(tensors) if name[:5] == "head."}
    if tensors:
        raise ValueError(f"it has a tensor {next(iter(tensors))!r}")
    found = DseeFile(base, updates, masks, index["kept"], index["groups"], task_head, about["config"])
    found.check()
    return found


def _entries(entries: Any, length: int) -> list[Any]:
    if not isinstance(entries, list) or not all(isinstance(e, list) and len(e) == length for e in entries):
        raise ValueError("its lists of matrices have entries of a wrong length")
    for entry in entries:
        check_name(entry[0])
        if not isinstance(entry[1], list) or len(entry[1]) > 16:
            raise ValueError(f"the shape of {entry[0]!r} is none")
    return entries


def _known(name: str, base: Base) -> str:
    if name not in base.parameters:
        raise ValueError(f"{name!r} is not a weight of the base")
    return name


def _within(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    return len(shape) == len(whole) and all(0 <= part <= size for part, size in zip(shape, whole))


def _check_within(name: str, shape: tuple[int, ...], whole: tuple[int, ...]) -> None:
    if not _within(shape, whole):
        raise ValueError(f"the mask of {name!r} is of shape {list(shape)}, the base's is {list(whole)}")


def _check_kept(kept: Any, groups: Any) -> None:
    if kept is None and groups == {}:
        return
    if not isinstance(kept, dict) or not isinstance(groups, dict) or not {*groups} <= {*kept}:
        raise ValueError("its record of kept units is none")
    for name, numbers in kept.items():
        check_name(name)
        if not isinstance(numbers, list):
            raise ValueError(f"its record of kept units of {name!r} is none")
        check_numbers(numbers, f"the units of {name!r}")
        if numbers != sorted({*numbers}):
            raise ValueError(f"the units of {name!r} do not rise")
    check_numbers(list(groups.values()), "its sizes of groups")
