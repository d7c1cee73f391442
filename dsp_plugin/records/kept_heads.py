"""Which heads were kept, as a record holds it: readable without the model and without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def kept_heads(head_map: Mapping[str, Any], mask: Sequence[bool]) -> dict[str, Any]:
    """Make the `heads` field: {"total", "kept", "blocks": [{"name", "kind", "num_heads", "kept"}]}.

    A block's `kept` are the numbers of its heads that are kept, rising; the whole field's is their count. A
    block of groups of neurons has the size of these, too, as `neurons`.

    Args:
        head_map: `HeadMap.to_dict()`.
        mask: bool [N], True where a head is kept; list, array or tensor.

    Raises:
        ValueError: the mask is not as long as the model has heads.
    """
    flags = [bool(flag) for flag in mask]
    total = sum(block["num_heads"] for block in head_map["blocks"])
    if len(flags) != total:
        raise ValueError(f"the mask has {len(flags)} entries, the model {total} heads")
    blocks, start = [], 0
    for block in head_map["blocks"]:
        mine = flags[start : start + block["num_heads"]]
        start += block["num_heads"]
        numbers = [head for head, kept in enumerate(mine) if kept]
        keys = ("name", "kind", "num_heads", *(("neurons",) if block.get("neurons") else ()))
        blocks.append({**{key: block[key] for key in keys}, "kept": numbers})
    return {"total": total, "kept": sum(flags), "blocks": blocks}


def kept_in_words(head_map: Mapping[str, Any], mask: Sequence[bool]) -> str:
    """Say how many are kept: "5 of 16 heads", "5 of 16 heads and 7 of 20 groups of neurons".

    Args:
        head_map, mask: see `kept_heads`, whose `heads` field can stand for the head map.
    """
    counts, start = {"heads": [0, 0], "groups of neurons": [0, 0]}, 0
    for block in head_map["blocks"]:
        count = counts["groups of neurons" if block.get("neurons") else "heads"]
        count[0] += sum(map(bool, mask[start : start + block["num_heads"]]))
        count[1] += block["num_heads"]
        start += block["num_heads"]
    said = [f"{kept} of {total} {noun}" for noun, (kept, total) in counts.items() if total]
    return " and ".join(said) or "0 of 0 heads"


def mask_of(heads: Mapping[str, Any]) -> list[bool]:
    """Return the mask [N] of a `heads` field, which can itself stand for the head map: it has its blocks."""
    return [head in block["kept"] for block in heads["blocks"] for head in range(block["num_heads"])]


def check_heads(heads: Any) -> None:
    """Raise a ValueError that names the part unless `heads` is what `kept_heads` makes and adds up."""
    if not _has_keys(heads, "total", "kept", "blocks") or not isinstance(heads["blocks"], list):
        raise ValueError("heads must be null or {total, kept, blocks}")
    total = kept = 0
    for position, block in enumerate(heads["blocks"]):
        where = f"heads.blocks[{position}]"
        if not _has_keys(block, "name", "kind", "num_heads", "kept"):
            raise ValueError(f"{where} must have name, kind, num_heads, kept")
        if not (isinstance(block["name"], str) and isinstance(block["kind"], str)):
            raise ValueError(f"{where}: name and kind must be texts")
        size, numbers = block["num_heads"], block["kept"]
        if type(size) is not int or size < 0:
            raise ValueError(f"{where}.num_heads must be an integer >= 0")
        possible = range(size)
        if (
            not isinstance(numbers, list)
            or any(type(number) is not int or number not in possible for number in numbers)
            or len(set(numbers)) != len(numbers)
        ):
            raise ValueError(f"{where}.kept must list different heads, each one of 0 .. {size} - 1")
        total, kept = total + size, kept + len(numbers)
    if heads["total"] != total:
        raise ValueError(f"heads.total is {heads['total']}, the blocks have {total}")
    if heads["kept"] != kept:
        raise ValueError(f"heads.kept is {heads['kept']}, the blocks keep {kept}")


def _has_keys(value: Any, *keys: str) -> bool:
    return isinstance(value, dict) and set(keys) <= set(value)
