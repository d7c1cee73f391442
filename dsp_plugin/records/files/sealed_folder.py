"""A folder of weights with a list of its files and their SHA-256, written last: `checksums.json`.

Listed is what makes a model or the state of a training; cards, logs and records may come and go. Reading
costs about a second for 1 to 2 GB.
"""

from __future__ import annotations

import hashlib
import json
import os
from fnmatch import fnmatchcase
from pathlib import Path

from .sealed import DamagedError, read_json, warn_unsealed, write_json

LIST = "checksums.json"
# Transformers' models and tokenizers, the Trainer's checkpoints, exports
_MODEL = ("config.json", "pruned_module.json", "model*.safetensors", "*.index.json", "pytorch_model*")
_OTHERS = (
    "generation_config.json",
    "tokenizer*",
    "vocab*",
    "*vocabulary.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "*.spm",
    "optimizer.pt",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
    "trainer_state.json",
    "training_args.bin",
    "model.bin",
    "*.onnx",
    "*.onnx.data",
    "certificate.json",
)


def seal_folder(folder: str | os.PathLike) -> Path:
    """Write the list of the files that are in the folder now, as the last file; return its path.

    Raises:
        OSError: a file cannot be read, or the list not written.
    """
    folder = Path(folder)
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
        for name in _names(folder)
    }
    write_json(folder / LIST, json.dumps({"files": files}, indent=1) + "\n")
    return folder / LIST


def unseal_folder(folder: str | os.PathLike) -> bool:
    """Take the list away before files of the folder are changed; return whether there was one."""
    path = Path(folder) / LIST
    there = path.is_file()
    path.unlink(missing_ok=True)
    return there


def check_sealed(folder: str | os.PathLike, warn: bool = False, whole: bool = True) -> bool:
    """Compare the folder with its list; return whether it has one.

    Args:
        warn: say so where it has none: it was written by us.
        whole: every listed file must be there. False: of a download it may be some only.

    Raises:
        DamagedError: a file is another one, or holds part of a model and is not in the list.
        OSError: a file is missing, or cannot be read.
    """
    folder = Path(folder)
    if not (folder / LIST).is_file():
        if warn:
            warn_no_list(folder)
        return False
    listing = read_json(folder / LIST)
    files = listing.get("files") if isinstance(listing, dict) else None
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
        raise DamagedError(f"{folder / LIST} is damaged: it lists no files")
    again = f"(if it was changed on purpose: dsp seal {folder})"
    for name, entry in files.items():
        path = folder / name
        if "/" in name or "\\" in name or name in ("", ".", ".."):
            raise DamagedError(f"{folder / LIST} is damaged: {name!r} is no name of a file in this folder")
        if not whole and not path.is_file():
            continue
        if not path.is_file():
            raise FileNotFoundError(f"{folder} is damaged: {name} is missing, which {LIST} lists {again}")
        if path.stat().st_size != entry.get("bytes") or sha256(path) != entry.get("sha256"):
            raise DamagedError(f"{path} is damaged: its content does not fit its checksum in {LIST} {again}")
    for name in _names(folder, _MODEL):
        if name not in files:
            other = f"{name} is of another model, {LIST} does not list it"
            raise DamagedError(f"{folder} is damaged: {other} {again}")
    return True


def warn_no_list(folder: str | os.PathLike) -> None:
    """Say once that a folder of ours cannot be checked, and how it gets a list."""
    warn_unsealed(folder, f"has no {LIST} (it is of an earlier version, or written by other programs)")


def holds_model(name: str) -> bool:
    """Return whether a file of this name holds (part of) a model, or its list: it goes when another comes."""
    return name in (LIST, "certificate.json") or any(fnmatchcase(name, pattern) for pattern in _MODEL)


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file, in hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _names(folder: Path, patterns: tuple[str, ...] = (*_MODEL, *_OTHERS)) -> list[str]:
    files = (path.name for path in folder.iterdir() if path.is_file())
    found = (name for name in files if not name.startswith(".") and name != LIST)
    return sorted(name for name in found if any(fnmatchcase(name, pattern) for pattern in patterns))
