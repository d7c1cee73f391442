"""The weights of a Transformers folder, one safetensors file or more with an index; needs no Transformers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...records.files.inside import check_inside, check_named
from ...records.files.sealed import parse_json, read_bounded
from ...records.files.sealed_folder import LIST, check_sealed, seal_folder
from ...records.files.whole import (
    check_output_folder,
    link_entry,
    new_folder,
    replacing,
    why_not_replaceable,
    write_text,
)

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_WEIGHTS = {".bin", ".h5", ".msgpack", ".onnx", ".ot", ".pt", ".pth", ".safetensors"}


class ModelFolder:
    """A folder that `save_pretrained` wrote.

    Raises:
        FileNotFoundError: no such folder, or (part of) its weights are missing.
        ValueError: a file in it is damaged, or another one than its list of checksums says.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}")
        check_sealed(folder)
        self._file_of = self._read_index()

    @property
    def config_path(self) -> Path:
        """The folder's config.json."""
        return self.folder / "config.json"

    def state(self) -> dict[str, Tensor]:
        """Read all tensors by name, on the CPU; changing them does not change the files."""
        tensors: dict[str, Tensor] = {}
        for file in self._files():
            tensors.update(load_file(self.folder / file))
        return tensors

    def write(self, state: Mapping[str, Tensor], changed: set[str], into: Path | None = None) -> list[Path]:
        """Bring the files that hold a tensor of `changed` to `state`, each whole or not at all.

        Tensors of `changed` that are new to the folder go to the last file; those that `state` lacks go.

        Args:
            into: see `in_one_step`; None for the folder itself.

        Raises:
            ValueError: a file is a link out of the folder; nothing is written.
            OSError: a file cannot be written; files that were not reached are as they were.
        """
        self.check_own()
        into = into or self.folder
        placed = {name: self._file_of.get(name, self._files()[-1]) for name in state}
        touched = {placed[name] for name in changed if name in placed}
        touched |= {self._file_of[name] for name in changed if name in self._file_of and name not in state}
        written = []
        for file in sorted(touched):
            with safe_open(self.folder / file, "pt") as old:
                metadata = old.metadata()
            # copies: the state may be mapped from the file that is replaced, and hold one tensor twice
            tensors = {name: state[name].contiguous().clone() for name in state if placed[name] == file}
            with replacing(into / file) as temporary:
                save_file(tensors, temporary, metadata)
            written.append(self.folder / file)
        if (self.folder / _INDEX).is_file() and set(placed) != set(self._file_of):
            index = json.loads((self.folder / _INDEX).read_text("utf-8"))
            index["weight_map"] = dict(sorted(placed.items()))
            if "total_size" in index.get("metadata", {}):
                index["metadata"]["total_size"] = sum(t.numel() * t.element_size() for t in state.values())
            write_text(into / _INDEX, json.dumps(index, indent=2) + "\n")
        self._file_of = placed
        return written

    @contextlib.contextmanager
    def in_one_step(self) -> Iterator[Path]:
        """Yield a folder with all files of this one, in whose place it comes when the body is done.

        A kill before leaves this one as it is. Files must be replaced, not written into: they are hard links.
        Yields the folder itself where it cannot be replaced (the working folder, a mounted file system).
        """
        if why_not_replaceable(self.folder):
            yield self.folder
            return
        with new_folder(self.folder, None) as folder:
            for path in sorted(self.folder.iterdir()):
                link_entry(path, folder / path.name)
            yield folder

    def check_own(self, *more: str) -> None:
        """Raise a ValueError where one of its files, or of those names, is a link that leads out of it."""
        for name in [*self._files(), _INDEX, self.config_path.name, LIST, *more]:
            check_inside(self.folder, self.folder / name, own=True)

    def copy_to(self, out: str | os.PathLike, state: Mapping[str, Tensor], config: str | None = None) -> None:
        """Write a folder with these weights in one file; it appears in one step.

        All other files (configuration, tokenizer) are copied along, and sub-folders without weights (the
        pooling of sentence-transformers).

        Args:
            config: text of its config.json; None for a copy.

        Raises:
            ValueError: a link leads out of this folder, or `out` holds weights of another model.
            OSError: it cannot be written.
        """
        check_copy("the copy", out)
        files = dict(self._others(Path(out)))
        with new_folder(out, None, lambda name: name not in (_SINGLE, LIST)) as folder:
            for name, path in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / name)
            tensors = {name: tensor.contiguous().clone() for name, tensor in state.items()}
            save_file(tensors, folder / _SINGLE, {"format": "pt"})
            if config is not None:
                (folder / self.config_path.name).write_text(config, "utf-8")
            seal_folder(folder)

    def _others(self, out: Path) -> Iterator[tuple[str, Path]]:
        """Yield the files that a copy takes along, with their names in it.

        Raises:
            ValueError: a link leads out of the folder.
        """
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith(".") or out.resolve().is_relative_to(path.resolve()):
                continue
            check_inside(self.folder, path)
            if path.is_dir() and path.is_symlink():
                raise ValueError(f"{path} is a link to a folder: it is not followed")
            below = sorted(path.rglob("*")) if path.is_dir() else [path]
            if any(inner.suffix in _WEIGHTS for inner in below) or path.name in (_INDEX, LIST):
                continue
            for inner in below:
                check_inside(self.folder, inner)
                if inner.is_file():
                    yield str(inner.relative_to(self.folder)), inner

    def _files(self) -> list[str]:
        return sorted(set(self._file_of.values()))

    def _read_index(self) -> dict[str, str]:
        """Map each tensor's name to the name of its file."""
        index = self.folder / _INDEX
        names = [_SINGLE]
        if not (self.folder / _SINGLE).is_file() and index.is_file():
            try:
                names = sorted(set(parse_json(read_bounded(index))["weight_map"].values()))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{index} is damaged: {error}") from None
            for name in names:
                check_named(self.folder, name, index)
        file_of: dict[str, str] = {}
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


def check_copy(option: str, out: str | os.PathLike) -> None:
    """Check before work is begun that `copy_to` can make the folder that `option` names.

    Raises:
        ValueError: it is a file, cannot be replaced, or holds weights of another model.
    """
    check_output_folder(option, out, None)
    there = sorted(path.name for path in Path(out).iterdir()) if os.path.isdir(out) else []
    other = [name for name in there if name != _SINGLE and (name == _INDEX or Path(name).suffix in _WEIGHTS)]
    if other:
        some = ", ".join(other[:3])
        raise ValueError(f"{option} {out} holds weights of another model ({some}): name another folder")
