"""The weights of a Transformers folder: one safetensors file, or several with an index. Needs no Transformers."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Dict, List, Mapping, Set

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..reports.files import replacing, write_text

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_WEIGHTS = {".bin", ".h5", ".msgpack", ".onnx", ".ot", ".pt", ".pth", ".safetensors"}


class ModelFolder:
    """A folder that `save_pretrained` wrote.

    Raises:
        FileNotFoundError: no such folder, or (part of) its weights are missing.
        ValueError: a file in it is damaged.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}")
        self._file_of = self._read_index()

    @property
    def config_path(self) -> Path:
        return self.folder / "config.json"

    def state(self) -> Dict[str, Tensor]:
        """All tensors by name, on the CPU; changing them does not change the files."""
        tensors: Dict[str, Tensor] = {}
        for file in self._files():
            tensors.update(load_file(self.folder / file))
        return tensors

    def write(self, state: Mapping[str, Tensor], changed: Set[str]) -> List[Path]:
        """Bring the files to `state`, each whole or not at all; only those that hold a tensor of `changed` are written.

        Tensors of `changed` that the folder does not have go to the last file; those that `state` does not have go.

        Raises:
            OSError: a file cannot be written; files that were not reached are as they were.
        """
        placed = {name: self._file_of.get(name, self._files()[-1]) for name in state}
        touched = {placed[name] for name in changed if name in placed}
        touched |= {self._file_of[name] for name in changed if name in self._file_of and name not in state}
        written = []
        for file in sorted(touched):
            with safe_open(self.folder / file, "pt") as old:
                metadata = old.metadata()
            # copies: the state may be mapped from the very file that is replaced, and may hold one tensor twice
            tensors = {name: state[name].contiguous().clone() for name in state if placed[name] == file}
            with replacing(self.folder / file) as temporary:
                save_file(tensors, temporary, metadata)
            written.append(self.folder / file)
        if (self.folder / _INDEX).is_file() and set(placed) != set(self._file_of):
            index = json.loads((self.folder / _INDEX).read_text("utf-8"))
            index["weight_map"] = dict(sorted(placed.items()))
            if "total_size" in index.get("metadata", {}):
                index["metadata"]["total_size"] = sum(t.numel() * t.element_size() for t in state.values())
            write_text(self.folder / _INDEX, json.dumps(index, indent=2) + "\n")
        self._file_of = placed
        return written

    def copy_to(self, out: str | os.PathLike, state: Mapping[str, Tensor]) -> None:
        """Write a folder with these weights in one file and copies of all other files (configuration, tokenizer), and of
        sub-folders without weights (the pooling of sentence-transformers).

        Raises:
            OSError: it cannot be written.
        """
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        weights = {_INDEX, *self._files()}
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith(".") or out.resolve().is_relative_to(path.resolve()):
                continue
            if path.is_dir() and not any(inner.suffix in _WEIGHTS for inner in path.rglob("*")):
                shutil.copytree(path, out / path.name, dirs_exist_ok=True)
            if path.is_file() and path.name not in weights and path.suffix not in _WEIGHTS:
                shutil.copyfile(path, out / path.name)
        with replacing(out / _SINGLE) as temporary:
            save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, temporary, {"format": "pt"})

    def _files(self) -> List[str]:
        return sorted(set(self._file_of.values()))

    def _read_index(self) -> Dict[str, str]:
        """name of a tensor → name of its file."""
        index = self.folder / _INDEX
        names = [_SINGLE]
        if not (self.folder / _SINGLE).is_file() and index.is_file():
            try:
                names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{index} is damaged: {error}") from None
        file_of: Dict[str, str] = {}
        for name in names:
            if not (self.folder / name).is_file():
                raise FileNotFoundError(
                    f"{self.folder} has no {name}: only weights in the safetensors format are read "
                    "(from_pretrained and save_pretrained of Transformers write it)"
                )
            try:
                with safe_open(self.folder / name, "pt") as file:
                    file_of.update(dict.fromkeys(file.keys(), name))
            except SafetensorError as error:
                raise ValueError(f"{self.folder / name} is damaged: {error}") from None
        return file_of
