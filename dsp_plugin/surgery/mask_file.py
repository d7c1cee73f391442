"""A mask of heads (or groups of neurons) in a file, as `generate_dsp.py` writes it."""

from __future__ import annotations

from ..gating import HeadMap
from ..options.errors import OptionError
from ..records.files.sealed import load_json, warn_unsealed


def read_mask(path: str, head_map: HeadMap) -> list[bool]:
    """Read a mask from JSON: {"keep": [true, false, ...]}, as `generate_dsp.py` writes it, or the list alone.

    Args:
        head_map: the heads it must be for.

    Raises:
        FileNotFoundError: no such file.
        OptionError: it is no mask, a damaged one, or one of another model; names the file.
    """
    try:
        data, sealed = load_json(path)
    except ValueError as error:
        raise OptionError("mask", str(error)) from None
    if isinstance(data, list) and any(isinstance(item, dict) for item in data):
        raise OptionError("mask", f"{path} holds the masks of several models: give one of them")
    keep = data.get("keep") if isinstance(data, dict) else data
    if not isinstance(keep, list) or any(flag not in (0, 1) for flag in keep):
        reason = f'{path}: expected {{"keep": [true, false, ...]}} or that list alone, one entry a head'
        raise OptionError("mask", reason)
    if len(keep) != head_map.num_heads:
        reason = f"{path} has {len(keep)} entries, the model {head_map.num_heads} heads"
        raise OptionError("mask", reason)
    if isinstance(data, dict) and "blocks" in data and data["blocks"] != head_map.to_dict()["blocks"]:
        raise OptionError("mask", f"{path} is of another model: its attention blocks are others")
    # a program of ours wrote it, and not the user
    if not sealed and isinstance(data, dict) and "blocks" in data:
        warn_unsealed(path)
    return [bool(flag) for flag in keep]


def units_of_mask(path: str) -> tuple[int | None, bool]:
    """Return which units the mask in a file is for: (neurons in a group or None, whether there are heads).

    A file that does not name its blocks is for heads. What is wrong with it is for `read_mask` to say.
    """
    try:
        data, _ = load_json(path)
        found = {block.get("neurons", 0) for block in data["blocks"]}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None, True
    sizes = found - {0}
    return (sizes.pop(), 0 in found) if len(sizes) == 1 else (None, True)
