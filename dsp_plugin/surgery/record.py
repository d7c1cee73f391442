"""The record of head removal: {block name: the heads it has kept}.

Head numbers are always those of the original model, also after a second and a third pruning, so that a record
tells where in the dense model each head that is left belongs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..gating import HeadMap

KeptHeads = dict[str, list[int]]


def compose(
    head_map: HeadMap, keep: Sequence[bool] | Tensor, earlier: Mapping[str, Sequence[int]] | None = None
) -> KeptHeads:
    """Return the record after keeping `keep` of a model that may have been pruned before.

    Args:
        head_map: the model's heads as they are now, N.
        keep: [N], True = kept.
        earlier: the model's record so far; None for a model that has all its heads.

    Raises:
        ValueError: `keep` is not [N], or `earlier` is the record of another model.
    """
    now = head_map.kept_by_block(keep)
    if earlier is None:
        return now
    counts = {block.name: block.num_heads for block in head_map.blocks}
    if {name: len(heads) for name, heads in earlier.items()} != counts:
        differ = "blocks or head counts differ"
        raise ValueError(f"the record of kept heads does not belong to this model: {differ}")
    return {name: [int(earlier[name][head]) for head in heads] for name, heads in now.items()}


def check_record(record: Mapping[str, Sequence[int]], original: HeadMap) -> None:
    """Raise a ValueError naming the block unless `record` can be one of a model with `original` heads."""
    names = {block.name for block in original.blocks}
    if not isinstance(record, Mapping) or set(record) != names:
        found = sorted(set(record) ^ names)[:4] if isinstance(record, Mapping) else type(record).__name__
        raise ValueError(f"the record of kept heads is of another model: {found}")
    for block in original.blocks:
        heads = record[block.name]
        # bool is an int in Python, and no head number
        numbers = isinstance(heads, (list, tuple)) and all(type(head) is int for head in heads)
        if (
            not numbers
            or list(heads) != sorted(set(heads))
            or any(not 0 <= head < block.num_heads for head in heads)
        ):
            raise ValueError(
                f"the record of kept heads lists {heads!r} for {block.name}, which had "
                f"{block.num_heads} heads"
            )


def mask_of_record(record: Mapping[str, Sequence[int]], original: HeadMap) -> Tensor:
    """Return bool [N], True = kept, N the heads of the original model.

    Raises:
        ValueError: the record is of another model.
    """
    check_record(record, original)
    flags = [head in record[block.name] for block in original.blocks for head in range(block.num_heads)]
    return torch.tensor(flags, dtype=torch.bool)
