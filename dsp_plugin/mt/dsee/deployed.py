"""What a DSEE file makes of its base: tensors and options of a smaller, sparser or merged model.

All of it is worked out on a checkpoint's tensors, before there is a model: surgery cuts the base as it does
for any other removal of heads, S1 sets weights to 0, and a merge writes the update into what is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...dsee.artefact import OWNER, DseeFile, Update
from ...dsee.merge import merged_weight
from ...dsee.scores import Matrix
from ...gating import HeadMap
from ...options.errors import OptionError
from ..heads.feed_forward import NEURONS
from ..surgery import frozen_base
from ..surgery.frozen_base import in_float
from ..surgery.pruning import CheckpointModel, prepare, remove_heads


@dataclass
class Frozen:
    """The base as a file leaves it, without the update.

    Attributes:
        state: a checkpoint of it, of built-in types. tensors: its weights, of storage of their own where
            something was pruned.
    """

    state: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def options(self) -> dict[str, Any]:
        """Those of its model, as `dsp_transformer` takes them."""
        return self.state["cfg"]["model"]


def check_base(file: DseeFile, tensors: Mapping[str, Tensor]) -> None:
    """Compare a file's base with a checkpoint's tensors. Errors as `frozen_base.check_base`."""
    frozen_base.check_base(file, tensors, OWNER)


def frozen_of(source: CheckpointModel, file: DseeFile) -> Frozen:
    """Cut the units out of a base that a file has not kept, and set to 0 what its S1 has taken.

    Raises:
        ValueError: the file says of units or weights what this base does not have.
    """
    size = group_size(file)
    if size is not None and source.options.get(NEURONS) != size:
        source = prepare(source.state, size)
    pruned = remove_heads(source, keep_of(source.head_map, file))
    tensors = in_float(pruned.state["model"])
    for name, mask in file.masks.items():
        if name not in tensors or tuple(tensors[name].shape) != mask.shape:
            raise ValueError(f"wrong base: it has no {name} of shape {list(mask.shape)} for the file's S1")
        tensors[name] = tensors[name].clone()
        mask.apply_(tensors[name])
    for name, update in file.updates.items():
        if name not in tensors or tuple(tensors[name].shape) != update.shape:
            raise ValueError(f"wrong base: it has no {name} of shape {list(update.shape)} for the update")
    if file.kept is None:  # as the base says it, or without a record
        pruned.state["cfg"]["model"]["kept_heads"] = source.options.get("kept_heads")
    return Frozen({**pruned.state, "model": tensors}, tensors)


def group_size(file: DseeFile) -> int | None:
    """Return the neurons in a group of the file's; None where no group was removed.

    Raises:
        ValueError: its groups are of several sizes.
    """
    sizes = {*file.groups.values()}
    if len(sizes) > 1:
        raise ValueError("the file has groups of neurons of several sizes")
    return next(iter(sizes), None)


def keep_of(head_map: HeadMap, file: DseeFile) -> Tensor:
    """Return which units a file keeps, bool [units of the base], in the order of the base's HeadMap.

    Raises:
        ValueError: it names blocks or units that the base does not have.
    """
    kept = file.kept or {}
    strange = {*kept} - {block.name for block in head_map.blocks}
    if strange:
        raise ValueError(f"wrong base: it has no {sorted(strange)[0]} to remove units from")
    flags: list[bool] = []
    for block in head_map.blocks:
        left = kept.get(block.name, list(range(block.num_heads)))
        if left and max(left) >= block.num_heads:
            raise ValueError(f"wrong base: {block.name} has {block.num_heads} units, not {max(left) + 1}")
        flags += [number in {*left} for number in range(block.num_heads)]
    return torch.tensor(flags, dtype=torch.bool)


def matrix_of(weight: Tensor, update: Update) -> Matrix:
    """Return a frozen weight and its update, for scoring and merging."""
    return Matrix(weight, update.down, update.up, update.positions, update.values, update.scale)


def merged_state(source: CheckpointModel, file: DseeFile, masked: bool | None = None) -> dict[str, Any]:
    """Return a checkpoint of the plain model that a base and a file make together.

    Args:
        source: the base, whose identity was checked.
        masked: the update is 0, too, where S1 has taken weights; None: as the file says.

    Raises:
        ValueError: as `frozen_of`.
    """
    frozen = frozen_of(source, file)
    masked = file.config.get("masked") is True if masked is None else masked
    tensors = dict(frozen.tensors)
    for name, update in file.updates.items():
        tensors[name] = merged_weight(matrix_of(tensors[name], update), file.masks.get(name), masked)
    return {**frozen.state, "model": tensors}


def alpha_of(file: DseeFile) -> tuple[int, float]:
    """Return rank and alpha of a file's updates, which in a model here are the same for all.

    Raises:
        OptionError: they are not; names --dsee-checkpoint.
    """
    found = {(update.down.shape[0], update.scale) for update in file.updates.values()}
    if len(found) > 1:
        reason = "has updates of several ranks or scales: it is none of fairseq's"
        raise OptionError("dsee_checkpoint", reason)
    rank, scale = next(iter(found))
    return rank, scale * rank


def with_updates(file: DseeFile, updates: dict[str, Update], config: Mapping[str, Any]) -> DseeFile:
    """Return a file of the same base and pruning with other updates; `config` joins what it says."""
    return replace(file, updates=updates, config={**file.config, **config})
