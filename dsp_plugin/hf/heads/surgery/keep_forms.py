"""Forms in which a user may say which heads stay: a mask, heads to remove by layer, the model's own gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..gating import boards_of, check_whole
from ..heads_link import LINK
from ..layouts.projections import Units
from .kept_heads import heads_left, original_count

_MASK = "give one flag a head, [N] in the order of head_map_of(model), True for those that stay"
_INTEGERS = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


def flags_of(model: nn.Module, attentions: Sequence[Units], keep: Any) -> list[bool]:
    """Return one flag [N] for every head the model has now, True for those that stay.

    Args:
        attentions: the model's attention blocks.
        keep: bool [N], or 0 and 1 as integers [N], in the order of `attentions`; or {layer: heads to remove},
            as in Transformers' own `prune_heads`: original numbers, those removed before may be missing; or
            None for the mask of the model's own gates.

    Raises:
        ValueError: `keep` has none of these forms or does not fit the model; the model is a part of a larger
            gated one; without `keep` it has no gates, or gates whose scores nothing has trained or ranked.
    """
    for board in boards_of(model):
        check_whole(model, board)
    if keep is None:
        return _flags_of_gates(model, attentions)
    if isinstance(keep, Mapping):
        return _flags_without(keep, attentions)
    flags = [_flag(value) for value in _values(keep)]
    count = sum(attention.block.num_heads for attention in attentions)
    if len(flags) != count:
        raise ValueError(f"expected {count} flags, one a head, got {len(flags)}")
    return flags


def _flags_of_gates(model: nn.Module, attentions: Sequence[Units]) -> list[bool]:
    boards = boards_of(model)
    if not boards:
        raise ValueError("which heads to keep was not said: give `keep`, or a gated model")
    if any(getattr(board.gates, "decided", None) is False for board in boards):
        raise ValueError(
            "the scores of the heads are those of the random start: nothing has trained or ranked them; "
            "train the gated model first, load its scores (load_gating), or say with `keep` which heads are "
            "to stay"
        )
    masks = {board: board.head_map.split(board.gates.keep()) for board in boards}
    flags: list[bool] = []
    for attention in attentions:
        link = getattr(attention.module, LINK, None)
        if link is None or link.switchboard is None:
            flags += [True] * attention.block.num_heads
        else:
            flags += [bool(flag) for flag in masks[link.switchboard][link.position].tolist()]
    return flags


def _values(keep: Any) -> Sequence[Any]:
    if isinstance(keep, (Tensor, np.ndarray)):
        if keep.ndim != 1:
            raise ValueError(f"`keep` has the shape {list(keep.shape)}: {_MASK}")
        if not keep.shape[0]:
            return []
        name = str(keep.dtype).removeprefix("torch.")
        integers = keep.dtype in _INTEGERS if isinstance(keep, Tensor) else keep.dtype.kind in "biu"
        if not integers:
            raise ValueError(_looks_like_scores(f"is of {name}"))
        return keep.tolist()
    if not isinstance(keep, Sequence) or isinstance(keep, (str, bytes)):
        raise ValueError(
            f"`keep` is a {type(keep).__name__}, which has no order of heads or no flags: {_MASK}"
        )
    return _scalars(keep)


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value not in (0, 1):
            raise ValueError(f"`keep` holds {value}, which looks like the number of a head: {_MASK}")
        return bool(value)
    if isinstance(value, float):
        raise ValueError(_looks_like_scores(f"holds {value!r}"))
    raise ValueError(f"`keep` holds {value!r}: {_MASK}")


def _looks_like_scores(what: str) -> str:
    return f"`keep` {what}: are these scores? {_MASK} (for example scores > 0)"


def _flags_without(remove: Mapping[Any, Any], attentions: Sequence[Units]) -> list[bool]:
    numbers: dict[int, list[int]] = {}
    for layer, removed in remove.items():
        if not _is_integer(layer):
            raise ValueError(
                f"`keep` has the key {layer!r}: a mapping names the heads to remove by layer number, {{0: "
                "[1, 2]}; for heads to keep by block name give a mask [N]"
            )
        numbers[int(layer)] = _numbers(int(layer), removed)
    kinds = sorted({attention.block.kind for attention in attentions})
    if numbers and len(kinds) > 1:
        raise ValueError(
            f"the model has attention blocks of several kinds ({', '.join(kinds)}), and a layer number does "
            f"not say which: {_MASK}"
        )
    for layer, removed in numbers.items():
        if not 0 <= layer < len(attentions):
            last = len(attentions) - 1
            raise ValueError(f"there is no layer {layer}: the model has the layers 0 to {last}")
        name, count = attentions[layer].block.name, original_count(attentions[layer])
        for head in removed:
            if not 0 <= head < count:
                raise ValueError(f"layer {layer} ({name}) had the heads 0 to {count - 1}, not {head}")
    return [
        head not in numbers.get(layer, ())
        for layer, attention in enumerate(attentions)
        for head in heads_left(attention)
    ]


def _numbers(layer: int, removed: Any) -> list[int]:
    if isinstance(removed, (Tensor, np.ndarray)):
        removed = removed.tolist()
    if not isinstance(removed, (list, tuple, set, frozenset, range)):
        raise ValueError(f"`keep` names {removed!r} for layer {layer}: give a list of the heads to remove")
    values = _scalars(removed)
    wrong = [value for value in values if not _is_integer(value)]
    if wrong:
        raise ValueError(
            f"`keep` names {wrong[0]!r} among the heads to remove of layer {layer}: give their numbers"
        )
    double = sorted({value for value in values if values.count(value) > 1})
    if double:
        raise ValueError(f"`keep` names head {double[0]} of layer {layer} twice")
    return [int(value) for value in values]


def _scalars(values: Any) -> list[Any]:
    """Return the values, those in tensors and arrays without dimensions as Python numbers."""
    return [
        value.item() if isinstance(value, (Tensor, np.generic)) and value.ndim == 0 else value
        for value in values
    ]


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
