"""What a pipeline's folders are made with: its settings, and the base that it trained, noted in each one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsp_plugin.records.files.sealed import read_json, write_json
from dsp_plugin.records.settings import other_settings, refusal

FILE = "settings.json"
_BASE = "trained_base"
_OTHERWISE = "remove it, or name other runs and results"


def content_of(path: Path) -> str:
    """Return the hash of a file's bytes."""
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


class NotedSettings:
    """The settings of a pipeline whose runs and records are in some folders.

    Args:
        settings: in built-in types.
        added: names of those that an earlier version did not have, which it did not note.
    """

    def __init__(self, folders: Sequence[Path], settings: Mapping[str, Any], added: Sequence[str]):
        self.folders, self.settings, self.added = folders, dict(settings), added

    def check(self) -> None:
        """Raise a ValueError where a folder was filled with other settings."""
        for folder in self.folders:
            made = _read(folder)
            if made:
                made.pop(_BASE, None)
                for name in self.added:
                    if name in self.settings:
                        made.setdefault(name, self.settings[name])
            if made != self.settings and (made or any(folder.glob("**/results.json"))):
                differing = other_settings(made, self.settings) if made else []
                raise refusal(f"{folder} holds work", differing, _OTHERWISE)

    def check_base_noted(self) -> None:
        """Raise a ValueError where there are records of nobody knows which base, and one is to be trained."""
        for folder in self.folders:
            if _BASE not in _read(folder) and any(folder.glob("*/*/results.json")):
                raise ValueError(f"{folder} holds work of a base that is not noted: {_OTHERWISE}")

    def check_base(self, base: Path, content: str) -> None:
        """Compare a base that was trained here with the one that all records are of.

        A model that is trained again, with other threads or on another machine, is another model: its rows do
        not stand beside those of the first one.

        Args:
            content: the hash of its weights.

        Raises:
            ValueError: there are records of another base, or of one that nobody has noted.
        """
        for folder in self.folders:
            before = _read(folder).get(_BASE)
            if before != content and (before or any(folder.glob("*/*/results.json"))):
                whose = f"of the base {before}" if before else "of a base that is not noted"
                raise ValueError(f"{folder} holds work {whose}, and {base} is {content}: {_OTHERWISE}")

    def write(self, content: str | None = None) -> None:
        """Note the settings in all folders, and the hash of the base that was trained, where there is one."""
        for folder in self.folders:
            known = {_BASE: content} if content else {}
            kept = {name: value for name, value in _read(folder).items() if name == _BASE}
            write_json(folder / FILE, json.dumps({**self.settings, **kept, **known}, indent=1) + "\n")


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    return read_json(path) if path.is_file() else {}
