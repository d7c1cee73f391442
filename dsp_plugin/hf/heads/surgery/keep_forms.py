"""The forms in which a user may say which heads stay: a mask of all heads, or heads to remove by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....gating import HeadMap
from ....surgery import KeptHeads

_FORMS = "give one flag a head, [N] in the order of head_map_of(model), True for those that stay"


def flags_of(keep: Any, heads: HeadMap, left: KeptHeads, original: Mapping[str, int]) -> list[bool]:
    """One flag for every head there is now.

    Args:
        keep: bool [N], or 0 and 1 as integers [N], in the order of `heads`; or {layer: heads to remove}, as
            Transformers' own `prune_heads` had it: numbers of the original heads, of those removed before
            nothing is said.
        heads: of the model as it is now.
        left: original numbers of the heads each block has now.
        original: heads each block had.

    Raises:
        ValueError: `keep` has none of these forms or does not fit the model; says why and what to give.
    """
    if isinstance(keep, Mapping):
        return _without(keep, heads, left, original)
    flags = [_flag(value) for value in _values(keep)]
    if len(flags) != heads.num_heads:
        raise ValueError(f"expected {heads.num_heads} flags, one a head, got {len(flags)}")
    return flags


def _values(keep: Any) -> Sequence[Any]:
    if isinstance(keep, (Tensor, np.ndarray)):
        if keep.ndim != 1:
            raise ValueError(f"`keep` has the shape {list(keep.shape)}: {_FORMS}")
        if not keep.shape[0]:
            return []
        name = str(keep.dtype).removeprefix("torch.")
        integers = keep.dtype in _INTEGERS if isinstance(keep, Tensor) else keep.dtype.kind in "biu"
        if not integers:
            raise ValueError(_not_flags(f"is of {name}"))
        return keep.tolist()
    if not isinstance(keep, Sequence) or isinstance(keep, (str, bytes)):
        raise ValueError(
            f"`keep` is a {type(keep).__name__}, which has no order of heads or no flags: {_FORMS}"
        )
    return [
        value.item() if isinstance(value, (Tensor, np.generic)) and value.ndim == 0 else value
        for value in keep
    ]


_INTEGERS = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value not in (0, 1):
            raise ValueError(f"`keep` holds {value}, which looks like the number of a head: {_FORMS}")
        return bool(value)
    raise ValueError(
        _not_flags(f"holds {value!r}") if isinstance(value, float) else f"`keep` holds {value!r}: {_FORMS}"
    )


def _not_flags(what: str) -> str:
    return f"`keep` {what}: are these scores? {_FORMS} (for example scores > 0)"


def _without(
    remove: Mapping[Any, Any], heads: HeadMap, left: KeptHeads, original: Mapping[str, int]
) -> list[bool]:
    kinds = sorted({block.kind for block in heads.blocks})
    numbers: dict[int, list[int]] = {}
    for layer, removed in remove.items():
        if not _is_integer(layer):
            raise ValueError(
                f"`keep` has the key {layer!r}: a mapping names the heads to remove by layer number, {{0: "
                "[1, 2]}; for heads to keep by block name give a mask [N]"
            )
        numbers[int(layer)] = _numbers(int(layer), removed)
    if numbers and len(kinds) > 1:
        raise ValueError(
            f"the model has attention blocks of several kinds ({', '.join(kinds)}), and a layer number does "
            f"not say which: {_FORMS}"
        )
    names = [block.name for block in heads.blocks]
    gone = {name: set() for name in names}
    for layer, removed in numbers.items():
        if not 0 <= layer < len(names):
            raise ValueError(f"there is no layer {layer}: the model has the layers 0 to {len(names) - 1}")
        for head in removed:
            if not 0 <= head < original[names[layer]]:
                raise ValueError(
                    f"layer {layer} ({names[layer]}) had the heads 0 to "
                    f"{original[names[layer]] - 1}, not {head}"
                )
        gone[names[layer]] = set(removed)
    return [head not in gone[name] for name in names for head in left[name]]


def _numbers(layer: int, removed: Any) -> list[int]:
    if isinstance(removed, (Tensor, np.ndarray)):
        removed = removed.tolist()
    if not isinstance(removed, (list, tuple, set, frozenset, range)):
        raise ValueError(f"`keep` names {removed!r} for layer {layer}: give a list of the heads to remove")
    values = [
        value.item() if isinstance(value, (Tensor, np.generic)) and value.ndim == 0 else value
        for value in removed
    ]
    wrong = [value for value in values if not _is_integer(value)]
    if wrong:
        raise ValueError(
            f"`keep` names {wrong[0]!r} among the heads to remove of layer {layer}: give their numbers"
        )
    double = sorted({value for value in values if values.count(value) > 1})
    if double:
        raise ValueError(f"`keep` names head {double[0]} of layer {layer} twice")
    return [int(value) for value in values]


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
