"""Putting checksums into what earlier versions wrote, or users changed, below a folder.

It is told here which files and folders of a tree are ours: all others are left alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .certificate import NAME as CERTIFICATE
from .files.sealed import parse_json, read_bounded, reseal_json, reseal_lines
from .files.sealed_folder import LIST, seal_folder
from .history import HISTORY

# Entries that tell our JSON from that of others (a model's config.json, a tokenizer's)
_KINDS = (
    {"schema_version", "kind", "method"},  # a record
    {"metric", "signature", "statistics"},  # its sentences
    {"blocks", "keep"},  # a mask, a step of a sweep
    {"equal", "largest_difference", "sha256"},  # a certificate
)
_SETTINGS = "settings.json"
_STATE = "trainer_state.json"
# in a pruned model's configuration, before the names of a gated model's state
_KEPT_HEADS, _GATING = "kept_heads", "gating."


@dataclass
class Sealed:
    """The files and folders that have a checksum now, and those that have none and why."""

    files: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def seal_path(path: str | os.PathLike) -> Sealed:
    """Put checksums into a file, or into all files and folders of ours below a folder.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: a file that can have no checksum; inside a folder such files are left out.
    """
    path, done = Path(path), Sealed()
    if path.is_file():
        reseal_lines(path) if path.suffix == ".jsonl" else reseal_json(path)
        done.files.append(path)
        return done
    if not path.is_dir():
        raise FileNotFoundError(f"there is no file and no folder {path}")
    for folder, inner, names in os.walk(path):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(names):
            _seal_if_ours(Path(folder) / name, done)
        if _is_of_weights(Path(folder), names, asked=Path(folder) == path):
            seal_folder(folder)
            done.folders.append(Path(folder))
    return done


def _seal_if_ours(path: Path, done: Sealed) -> None:
    try:
        if path.name == HISTORY:
            reseal_lines(path)
        elif path.suffix == ".json" and path.name != LIST and _is_ours(path, parse_json(read_bounded(path))):
            reseal_json(path)
        else:
            return
        done.files.append(path)
    except ValueError as error:
        done.left_out.append(str(error) if str(path) in str(error) else f"{path}: {error}")


def _is_ours(path: Path, content: Any) -> bool:
    if not isinstance(content, dict):
        return False
    return path.name == _SETTINGS or any(kind <= set(content) for kind in _KINDS)


def _is_of_weights(folder: Path, names: list[str], asked: bool) -> bool:
    """Return whether a folder has a list, or would have one if written now. `asked`: the user named it."""
    if LIST in names or CERTIFICATE in names or (_STATE in names and folder.name.startswith("checkpoint-")):
        return True
    if "config.json" not in names:
        return False
    try:
        config = parse_json(read_bounded(folder / "config.json"))
    except ValueError:
        return False
    weights = [folder / name for name in names if name.startswith("model") and name.endswith(".safetensors")]
    return bool(weights) and (asked or _KEPT_HEADS in config or any(map(_is_gated, weights)))


def _is_gated(path: Path) -> bool:
    try:
        with safe_open(path, "np") as file:
            return any(name.startswith(_GATING) for name in file.keys())
    except SafetensorError:
        return False
