"""Stage II: heads, groups of neurons and single weights of the base go, under an update that was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...dsee.artefact import DseeFile, Update
from ...dsee.cuts import cut_update
from ...dsee.scores import HEAD_MODES, check_mode, head_scores, weight_scores
from ...dsee.weight_masks import PackedMask, check_ratio, prune_group
from ...gating import AttentionBlock, HeadMap
from ...options.errors import OptionError
from ..heads.checkpoint_heads import head_map_of_state
from ..heads.feed_forward import NEURONS, check_groups
from ..surgery.base_checkpoint import BaseCheckpoint
from ..surgery.pruning import head_dim_of
from .deployed import Frozen, frozen_of, group_size, matrix_of
from .layer import ROLES


@dataclass(frozen=True)
class Pruning:
    """What is to go.

    Attributes:
        pruning_ratio: share of the weights without an update that is 0 afterwards, by magnitude.
        ad_pruning_ratio: the same of those with one, by `prune_mode`.
        prune_mode: W, AB, ABS, WAB, WABS, NAB, NABS or random; for heads ABS or WABS.
        prune_heads_num: heads that go from every attention block that has any.
        prune_neurons: share of the groups of neurons that goes from every feed-forward layer.
        neurons: in a group.
        seed: for `random`.

    Raises:
        OptionError: values that cannot be, or that do not go together.
    """

    pruning_ratio: float = 0.0
    ad_pruning_ratio: float = 0.0
    prune_mode: str = "WABS"
    prune_heads_num: int = 0
    prune_neurons: float = 0.0
    neurons: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        check_mode(self.prune_mode)
        for name in ("pruning_ratio", "ad_pruning_ratio", "prune_neurons"):
            check_ratio(getattr(self, name), name)
        for name, least in (("prune_heads_num", 0), ("neurons", 1)):
            number = getattr(self, name)
            if type(number) is not int or number < least:
                raise OptionError(name, f"must be a whole number, {least} or more, got {number!r}")
        if self.prune_heads_num and self.prune_mode not in HEAD_MODES:
            reason = f"{self.prune_mode} ranks no heads: {' or '.join(HEAD_MODES)} does"
            raise OptionError("prune_mode", reason)

    @property
    def unstructured(self) -> bool:
        """Whether single weights are pruned."""
        return bool(self.pruning_ratio or self.ad_pruning_ratio)

    @property
    def structured(self) -> bool:
        """Whether heads or neurons are taken out."""
        return bool(self.prune_heads_num or self.prune_neurons)

    def check(self, base: BaseCheckpoint, roles: list[str]) -> None:
        """Look at what cannot be on a base, before anything is trained.

        Args:
            roles: of the matrices with an update.

        Raises:
            OptionError: nothing is to be pruned; a block would have no head left, or its heads cannot be
                scored; groups of that size cannot be.
        """
        if not (self.unstructured or self.structured):
            others = ("ad_pruning_ratio", "prune_heads_num", "prune_neurons")
            raise OptionError("pruning_ratio", "or {}, {} or {} says what is to be pruned", *others)
        if self.prune_heads_num and not {"query", "value"} <= {*roles}:
            reason = "ranks heads by what query and value have learnt: {} must name both"
            raise OptionError("prune_heads_num", reason, "dsee_targets")
        options = dict(base.options)
        if self.prune_neurons:
            if options.get(NEURONS) not in (None, self.neurons):
                reason = f"{self.neurons}: {base.path} has lost groups of {options[NEURONS]} neurons"
                raise OptionError(NEURONS, f"{reason}, and loses others of that size")
            check_groups(self.neurons, options)
            options[NEURONS] = self.neurons
        _check_left(head_map_of_state(base.tensors, options), self)

    def figures(self) -> dict[str, Any]:
        """Return what is pruned, as the file and the records note it."""
        found = {name: value for name, value in asdict(self).items() if name != "seed"}
        if not self.unstructured:
            found.pop("pruning_ratio"), found.pop("ad_pruning_ratio")
        if not self.prune_heads_num:
            found.pop("prune_heads_num")
        if not self.prune_neurons:
            found.pop("prune_neurons"), found.pop("neurons")
        if not (self.unstructured or self.prune_heads_num):
            found.pop("prune_mode")
        return found


def prune_file(base: BaseCheckpoint, file: DseeFile, pruning: Pruning) -> DseeFile:
    """Return what is left of a file's model: units go first, and of what is left single weights.

    Called again with larger shares it goes on: what is pruned does not come back.

    Args:
        base: of the file, whose identity was checked.

    Raises:
        OptionError: see `Pruning`; a share smaller than what is pruned already.
        ValueError: nothing has trained the update, by which heads and weights are ranked; a score is no
            number.
    """
    by_update = pruning.prune_heads_num or pruning.ad_pruning_ratio
    if by_update and pruning.prune_mode.removeprefix("N") in ("AB", "ABS"):
        _check_trained(file, sparse=pruning.prune_mode.endswith("S"))
    pruned = file
    if pruning.structured:
        pruned = _without_units(base, pruned, pruning)
    if pruning.unstructured:
        frozen = frozen_of(base.source, pruned)
        pruned = replace(pruned, masks=_masks(frozen, pruned, pruning))
    earlier = file.config.get("pruning")
    earlier = earlier if isinstance(earlier, dict) else {}
    figures = {"pruning": {**earlier, **pruning.figures()}, "stage": "II"}
    return replace(pruned, config={**file.config, **figures})


def prunable(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the weights that S1 may take: all matrices of attention and feed-forward in the layers."""
    ends = tuple(f".{name}.weight" for name in (*ROLES.values(), "fc1", "fc2"))
    return [
        name
        for name, weight in tensors.items()
        if ".layers." in name and name.endswith(ends) and weight.dim() == 2
    ]


def _masks(frozen: Frozen, file: DseeFile, pruning: Pruning) -> dict[str, PackedMask]:
    """Rank single weights in the two groups, and return S1; full masks are not in it."""
    generator = torch.Generator().manual_seed(pruning.seed)
    by_size: dict[str, Tensor] = {}
    by_mode: dict[str, Tensor] = {}
    for name in prunable(frozen.tensors):
        weight = frozen.tensors[name]
        if name in file.updates:
            matrix = matrix_of(weight, file.updates[name])
            by_mode[name] = weight_scores(matrix, pruning.prune_mode, generator)
        else:
            by_size[name] = weight.abs()
    gone = {name: ~mask.mask() for name, mask in file.masks.items()}
    left = prune_group(by_size, pruning.pruning_ratio, gone, "pruning_ratio")
    left |= prune_group(by_mode, pruning.ad_pruning_ratio, gone, "ad_pruning_ratio")
    masks = {name: PackedMask.of(left[name]) for name in prunable(frozen.tensors)}
    return {name: mask for name, mask in masks.items() if mask.kept < mask.size}


def score_heads(frozen: Frozen, updates: Mapping[str, Update], mode: str = "ABS") -> dict[str, Tensor]:
    """Score the heads of every attention block by what their rows of query and value have learnt.

    Returns:
        {block: [H] float64}, low ones first to go

    Raises:
        ValueError: a block's query or value has no update; names it.
    """
    scores = {}
    for block in head_map_of_state(frozen.tensors, frozen.options).blocks:
        if block.neurons or not block.num_heads:
            continue
        pair = []
        for role in ("query", "value"):
            name = f"{block.name}.{ROLES[role]}.weight"
            if name not in updates:
                raise ValueError(f"the heads of {block.name} cannot be scored: its {role} has no update")
            pair.append(matrix_of(frozen.tensors[name], updates[name]))
        scores[block.name] = head_scores(*pair, block.num_heads, mode)
    return scores


def score_groups(frozen: Frozen, block: AttentionBlock) -> Tensor:
    """Score groups of neurons by the norm of the weights into them times that of those out of them, [g]."""
    layer = block.name.removesuffix("fc2")
    total = torch.ones(block.num_heads, dtype=torch.float64)
    for name, dim in (("fc1", 0), ("fc2", 1)):
        weight = frozen.tensors[f"{layer}{name}.weight"].double()
        # [neurons] -> [groups, G] -> [groups]
        total *= weight.square().sum(1 - dim).view(block.num_heads, block.neurons).sum(1).sqrt()
    return total


def _without_units(base: BaseCheckpoint, file: DseeFile, pruning: Pruning) -> DseeFile:
    """Take the lowest units of every block out, and cut the update and S1 along."""
    frozen = frozen_of(base.source, file)
    size = group_size(file) or base.options.get(NEURONS)
    if pruning.prune_neurons:
        if size not in (None, pruning.neurons):
            reason = f"{pruning.neurons}: groups of {size} neurons were removed before, and others go alike"
            raise OptionError(NEURONS, reason)
        size = pruning.neurons
        check_groups(size, frozen.options)
    options = {**frozen.options, NEURONS: size}
    now = head_map_of_state(frozen.tensors, options)
    _check_left(now, pruning)
    scores = score_heads(frozen, file.updates, pruning.prune_mode) if pruning.prune_heads_num else {}
    kept: dict[str, list[int]] = {}
    updates, masks = dict(file.updates), dict(file.masks)
    for block in now.blocks:
        count = _gone(block, pruning)
        left = torch.ones(block.num_heads, dtype=torch.bool)
        if count:
            of_units = score_groups(frozen, block) if block.neurons else scores[block.name]
            left[of_units.sort(stable=True).indices[:count]] = False
        before = (file.kept or {}).get(block.name, range(block.num_heads))
        kept[block.name] = [number for number, stays in zip(before, left.tolist()) if stays]
        if count:
            _cut(block, left.repeat_interleave(head_dim_of(block, options)), updates, masks)
    groups = {block.name: block.neurons for block in now.blocks if block.neurons}
    return replace(file, updates=updates, masks=masks, kept=kept, groups=groups)


def _cut(
    block: AttentionBlock, left: Tensor, updates: dict[str, Update], masks: dict[str, PackedMask]
) -> None:
    """Cut updates and masks of a block's matrices; `left` is bool [width], of features."""
    if block.neurons:
        layer = block.name.removesuffix("fc2")
        rows = {f"{layer}fc1.weight": True, f"{layer}fc2.weight": False}
    else:
        rows = {f"{block.name}.{name}.weight": role != "output" for role, name in ROLES.items()}
    for name, by_rows in rows.items():
        if name in updates:
            updates[name] = cut_update(updates[name], by_rows, left)
        if name in masks:
            masks[name] = masks[name].select(int(not by_rows), left)
            if masks[name].kept == masks[name].size:
                del masks[name]


def _gone(block: AttentionBlock, pruning: Pruning) -> int:
    if block.neurons:
        return int(pruning.prune_neurons * block.num_heads + 0.5)
    return pruning.prune_heads_num if block.num_heads else 0


def _check_left(head_map: HeadMap, pruning: Pruning) -> None:
    for block in head_map.blocks:
        count = _gone(block, pruning)
        if count and count >= block.num_heads:
            name, noun = ("prune_neurons", "groups") if block.neurons else ("prune_heads_num", "heads")
            reason = f"leaves nothing of {block.name}, which has {block.num_heads} {noun}"
            raise OptionError(name, f"{getattr(pruning, name)}: {reason}")


def _check_trained(file: DseeFile, sparse: bool) -> None:
    trained = any(bool(one.up.any()) and bool(one.down.any()) for one in file.updates.values())
    if not (trained or sparse and any(bool(one.values.any()) for one in file.updates.values())):
        reason = "the update is zero, because nothing has trained it: it ranks no weights and no heads"
        raise ValueError(reason)
