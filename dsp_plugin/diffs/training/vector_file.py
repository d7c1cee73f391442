"""A trained DiffVector as a file, from which it is projected: w, alpha, the groups' alpha and the task head.

A safetensors file, whatever its name ends with: `w`, `alpha`, `group_alpha`, `head.NAME`, and JSON in its
metadata, a checksum among it.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...artefacts.base import base_hash
from ...artefacts.checksum import NO_CHECKSUM, fits, seal
from ...artefacts.content import all_finite, check_depth, check_name, check_numbers, malformed, parse_json
from ...records.files.whole import replacing
from .groups import GroupFunction
from .passes.concrete import StretchedConcrete
from .vector import DiffVector

FORMAT = 1
_KEY = "dsp_diff_vector"
_FLAT = ("w", "alpha", "group_alpha")


@dataclass(frozen=True)
class SavedVector:
    """A vector as `save_vector` wrote it.

    Attributes:
        flat: w, alpha [N] and group_alpha [G]. task_head: its tensors by name.
        header: names and hash of the body, seed, steps, the stretched interval. config: the writer's own.
    """

    flat: dict[str, Tensor]
    task_head: dict[str, Tensor]
    header: dict[str, Any]
    config: dict[str, Any]

    def restore(self, model: nn.Module, grouping: str | GroupFunction | None) -> DiffVector:
        """Make the vector again, attached to its base.

        Args:
            model: the base. Its task head may be any of the same names.
            grouping: as in training.

        Raises:
            ValueError: the model lacks parameters of the diff or is another base, or the groups are others.
        """
        parameters = dict(model.named_parameters())
        missing = [name for name in [*self.header["names"], *self.task_head] if name not in parameters]
        if missing:
            some = ", ".join(missing[:3])
            raise ValueError(f"wrong base: it lacks {len(missing)} parameters of the diff: {some}")
        if base_hash({name: parameters[name] for name in self.header["names"]}) != self.header["base"]:
            raise ValueError("wrong base: its weights are not those that the diff was trained on")
        body = set(self.header["names"])
        frozen = [name for name in parameters if name not in body and name not in self.task_head]
        known = self.header.get("frozen")  # older files do not tell of it
        if known and base_hash({name: parameters[name] for name in frozen}) != known:
            raise ValueError("wrong base: the weights that were frozen are not those of the diff's base")
        concrete = StretchedConcrete(*self.header["concrete"])
        vector = DiffVector(
            model,
            base=parameters,
            task_head=list(self.task_head),
            frozen=frozen,
            grouping=grouping,
            concrete=concrete,
            seed=self.header["seed"],
        )
        flats = {name: getattr(vector, name) for name in _FLAT}
        same = vector.layout.names == self.header["names"] and self.header.get("grouping") in (
            None,
            vector.layout.grouping_hash(),
        )
        if not same or any(here.shape != self.flat[name].shape for name, here in flats.items()):
            vector.detach()
            raise ValueError(
                "the diff was trained with other groups, or with its parameters in another order"
            )
        for name, here in flats.items():
            here.copy_(self.flat[name])
        vector.steps = self.header["steps"]
        vector.mark("nothing")
        return vector


def save_vector(path: str | os.PathLike, vector: DiffVector, config: Mapping[str, Any] = {}) -> None:
    """Write a vector and the task head beside it, whole or not at all.

    Raises:
        OSError: it cannot be written. ValueError: `config` is not JSON.
    """
    header = {
        "format": FORMAT,
        "checksum": NO_CHECKSUM,
        "names": vector.layout.names,
        "base": vector.base_hash(),
        "frozen": vector.frozen_hash,
        "grouping": vector.layout.grouping_hash(),
        "seed": vector.seed,
        "steps": vector.steps,
        "concrete": [vector.concrete.low, vector.concrete.high],
        "config": dict(config),
    }
    try:
        metadata = {_KEY: json.dumps(header)}  # one entry: safetensors writes several in any order
    except TypeError as error:
        raise ValueError(f"the configuration is not JSON: {error}") from error
    tensors = {name: getattr(vector, name).detach().cpu().clone() for name in _FLAT}
    tensors.update({f"head.{n}": tensor.detach().cpu().clone() for n, tensor in vector.task_head.items()})
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata)
        seal(temporary)


def read_vector(path: str | os.PathLike) -> SavedVector:
    """Read what `save_vector` wrote.

    Raises:
        OSError: no such file.
        ValueError: not the file of a vector, a damaged one, or one of a newer version.
    """
    said = f"{path} is damaged or no safetensors file"
    with malformed(said, json.JSONDecodeError, UnicodeDecodeError):
        return _read(os.fspath(path))


def _read(path: str) -> SavedVector:
    with safe_open(path, "pt") as file:
        metadata = (file.metadata() or {}).get(_KEY)
        if metadata is None:
            wrong = "holds no diff in training (it is not what diff pruning's first stage writes)"
            raise ValueError(f"{path} {wrong}")
        header = parse_json(metadata, f"{path}'s header")
        if header["format"] != FORMAT:
            wrong = f"is of format {header['format']}, this version reads {FORMAT}: update dsp_plugin"
            raise ValueError(f"{path} {wrong}")
        # files without a checksum are older; they do not tell of the grouping either
        if "checksum" not in header and "grouping" not in header:
            older = "was written before these files had a checksum: damage to it cannot be seen"
            warnings.warn(f"{path} {older}")
        elif not fits(path, header["checksum"]):
            raise ValueError(f"{path} is damaged: its content does not fit its checksum")
        _check(header, path)
        flat = {name: file.get_tensor(name) for name in _FLAT}
        keys = [key for key in sorted(file.keys()) if key.startswith("head.")]
        task_head = {key.removeprefix("head."): file.get_tensor(key) for key in keys}
    for name, tensor in {**flat, **task_head}.items():
        if not tensor.is_floating_point() or not all_finite(tensor):
            raise ValueError(f"{path} holds numbers that are not finite: {name}")
    if any(tensor.dim() != 1 for tensor in flat.values()) or flat["w"].shape != flat["alpha"].shape:
        raise ValueError(f"{path}: w, alpha and group_alpha are no vectors, or not of one length")
    return SavedVector(flat, task_head, header, header.pop("config"))


def _check(header: dict[str, Any], path: str) -> None:
    """Raise a ValueError, or a KeyError that says what is missing, for what `save_vector` never says."""
    names, concrete = header["names"], header["concrete"]
    if not isinstance(names, list) or not names or len({*names}) != len(names):
        raise ValueError(f"{path}: the names of the body's parameters are no list of different names")
    for name in names:
        check_name(name)
    check_numbers([header["steps"]], f"{path}: its steps")
    # what is drawn from the seed is the same for all whole numbers that are equal in 64 bits
    whole = type(header["seed"]) is int and abs(header["seed"]) < 1 << 64
    texts = all(isinstance(header.get(name), (str, type(None))) for name in ("base", "frozen", "grouping"))
    kinds = isinstance(header["base"], str) and isinstance(header["config"], dict)
    if not (whole and texts and kinds):
        raise ValueError(f"{path}: its header has values of another kind")
    check_depth(header["config"], f"{path}: its config")
    ends = concrete if isinstance(concrete, list) else []
    if len(ends) != 2 or not all(type(end) in (int, float) for end in ends):
        raise ValueError(f"{path}: its stretched interval is none")
    StretchedConcrete(*concrete)
