"""A mask of heads in a file, as `generate_dsp.py` writes it."""

from __future__ import annotations

from ..gating import HeadMap
from ..records.files.sealed import load_json, warn_unsealed


def read_mask(path: str, head_map: HeadMap) -> list[bool]:
    """The mask in a JSON file: {"keep": [true, false, ...]}, as `generate_dsp.py` writes it, or the list
    alone.

    Args:
        head_map: the heads it must be for.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no mask, a damaged one, or one of another model; names the file.
    """
    try:
        data, sealed = load_json(path)
    except ValueError as error:
        raise ValueError(f"--mask {error}") from None
    if isinstance(data, list) and any(isinstance(item, dict) for item in data):
        raise ValueError(f"--mask {path} holds the masks of several models: give one of them")
    keep = data.get("keep") if isinstance(data, dict) else data
    if not isinstance(keep, list) or any(flag not in (0, 1) for flag in keep):
        raise ValueError(
            f'--mask {path}: expected {{"keep": [true, false, ...]}} or that list alone, one entry a head'
        )
    if len(keep) != head_map.num_heads:
        raise ValueError(f"--mask {path} has {len(keep)} entries, the model {head_map.num_heads} heads")
    if isinstance(data, dict) and "blocks" in data and data["blocks"] != head_map.to_dict()["blocks"]:
        raise ValueError(f"--mask {path} is of another model: its attention blocks are others")
    # a program of ours wrote it, and not the user
    if not sealed and isinstance(data, dict) and "blocks" in data:
        warn_unsealed(path)
    return [bool(flag) for flag in keep]
