"""Which heads and groups of neurons were kept, as a record holds it: readable without model and torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def kept_heads(head_map: Mapping[str, Any], mask: Sequence[bool]) -> dict[str, Any]:
    """Make the `heads` field: {"total", "kept", "blocks": [{"name", "kind", "num_heads", "kept"}]}.

    A block's `kept` are the numbers of its units that are kept, rising. A block of groups of neurons has the
    size of these, too, as `neurons`, and where there are such blocks the field has
    `groups`: {"total", "kept"}. `total` and `kept` of the whole field count heads, and those of `groups` the
    groups. Records of earlier versions have no `groups`, and count all units as heads.

    Args:
        head_map: `HeadMap.to_dict()`.
        mask: bool [N], True where a unit is kept; list, array or tensor.

    Raises:
        ValueError: the mask is not as long as the model has units.
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
    groups = [block for block in blocks if block.get("neurons")]
    found = {**_counted(block for block in blocks if not block.get("neurons")), "blocks": blocks}
    return {**found, "groups": _counted(groups)} if groups else found


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


def has_lost(heads: Mapping[str, Any]) -> bool:
    """Whether a `heads` field tells of heads, or groups of neurons, that are gone."""
    return not all(mask_of(heads))


def mask_of(heads: Mapping[str, Any]) -> list[bool]:
    """Return the mask [N] of a `heads` field, which can itself stand for the head map: it has its blocks."""
    return [head in block["kept"] for block in heads["blocks"] for head in range(block["num_heads"])]


def check_heads(heads: Any) -> None:
    """Raise a ValueError that names the part unless `heads` is what `kept_heads` makes and adds up."""
    if not _has_keys(heads, "total", "kept", "blocks") or not isinstance(heads["blocks"], list):
        raise ValueError("heads must be null or {total, kept, blocks}")
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
        neurons = block.get("neurons", 1)
        if type(neurons) is not int or neurons < 1:
            raise ValueError(f"{where}.neurons must be an integer >= 1")
    if "groups" not in heads:  # without neurons, or of an earlier version
        _check_sums("heads", heads, heads["blocks"])
        return
    _check_sums("heads", heads, [block for block in heads["blocks"] if not block.get("neurons")])
    if not _has_keys(heads["groups"], "total", "kept"):
        raise ValueError("heads.groups must be {total, kept}")
    _check_sums("heads.groups", heads["groups"], [block for block in heads["blocks"] if block.get("neurons")])


def _check_sums(where: str, counts: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]]) -> None:
    found = _counted(blocks)
    if counts["total"] != found["total"]:
        raise ValueError(f"{where}.total is {counts['total']}, the blocks have {found['total']}")
    if counts["kept"] != found["kept"]:
        raise ValueError(f"{where}.kept is {counts['kept']}, the blocks keep {found['kept']}")


def _counted(blocks: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    sizes = [(block["num_heads"], len(block["kept"])) for block in blocks]
    return {"total": sum(total for total, _ in sizes), "kept": sum(kept for _, kept in sizes)}


def _has_keys(value: Any, *keys: str) -> bool:
    return isinstance(value, dict) and set(keys) <= set(value)
