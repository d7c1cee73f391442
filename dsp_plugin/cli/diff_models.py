"""The two kinds of stored models that `dsp diff` changes: a Transformers folder and a fairseq checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from dsp_plugin.diffs.packs.model_weights import ModelFolder
from dsp_plugin.diffs.packs.undo_file import UndoRecord
from dsp_plugin.records.files.inside import check_inside
from dsp_plugin.records.files.sealed_folder import seal_folder, unseal_folder
from dsp_plugin.records.files.whole import write_text


class StoredModel(Protocol):
    """A model in a file or folder.

    Attributes:
        path: the file or folder.
        undo_path: where the undo record goes when a pack is applied in place.
    """

    path: Path
    undo_path: Path

    def state(self) -> dict[str, Tensor]:
        """Return its weights."""

    def store(
        self, state: Mapping[str, Tensor], changed: set[str], config: str | None, undo: UndoRecord | None
    ) -> None:
        """Bring the stored model to these weights, in place.

        After a kill it is as it was, as it should be, or has an undo record by which it becomes what it was.

        Args:
            changed: names of the weights that are others than before, or are gone.
            config: text of its configuration file; None where that stays.
            undo: the record that is beside it from now on; None where there is none any more.

        Raises:
            ValueError: it is written through a link out of its folder; nothing is changed.
        """

    def copy_to(self, out: str, state: Mapping[str, Tensor], model_config: Mapping[str, Any] | None) -> None:
        """Write a model with these weights to `out`, all else as here, but for entries of its config."""

    def config_text(self) -> str | None:
        """Return its configuration file; None where it has none."""

    def configured(self, model_config: Mapping[str, Any]) -> str | None:
        """Return what its configuration file would be with these entries; None where it has none.

        Raises:
            ValueError: the file is damaged.
        """


def open_model(path: str) -> StoredModel:
    """Open a Transformers folder, or a fairseq checkpoint file.

    Raises:
        FileNotFoundError, ValueError: there is nothing there, or it cannot be read; says what.
    """
    if os.path.isdir(path):
        return TransformersModel(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no Transformers folder and no fairseq checkpoint at {path}")
    if path.endswith(".safetensors"):
        raise ValueError(f"{path} is a weight file: name the folder it is in")
    return FairseqModel(path)


class TransformersModel:
    """A folder that `save_pretrained` wrote; Transformers is not needed."""

    def __init__(self, path: str):
        self.path = Path(path)
        self.undo_path = self.path / "diff-undo.safetensors"
        self._folder = ModelFolder(path)

    def state(self) -> dict[str, Tensor]:
        return self._folder.state()

    def store(
        self, state: Mapping[str, Tensor], changed: set[str], config: str | None, undo: UndoRecord | None
    ) -> None:
        self._folder.check_own(self.undo_path.name)
        with self._folder.in_one_step() as folder:
            # where steps can be seen: the record first and last, so that `revert` can mend after a kill
            if undo is not None:
                undo.save(folder / self.undo_path.name)
            sealed = unseal_folder(folder)
            self._folder.write(state, changed, folder)
            if config is not None:
                write_text(folder / self._folder.config_path.name, config)
            if sealed:
                seal_folder(folder)
            if undo is None:
                (folder / self.undo_path.name).unlink(missing_ok=True)

    def copy_to(self, out: str, state: Mapping[str, Tensor], model_config: Mapping[str, Any] | None) -> None:
        self._folder.copy_to(out, state, self.configured(model_config) if model_config else None)

    def config_text(self) -> str | None:
        path = self._folder.config_path
        return path.read_text("utf-8") if path.is_file() else None

    def configured(self, model_config: Mapping[str, Any]) -> str | None:
        before = self.config_text()
        if before is None:
            return None
        try:
            return json.dumps({**json.loads(before), **model_config}, indent=2) + "\n"
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{self._folder.config_path} is damaged: {error}") from None


class FairseqModel:
    """A fairseq checkpoint, read weights-only; options and history stay, a copy has no optimizer state."""

    def __init__(self, path: str):
        from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint

        self.path = Path(path)
        self.undo_path = self.path.with_name(self.path.name + ".diff-undo.safetensors")
        self._checkpoint = load_checkpoint(path, with_options=False)  # they are only written back

    def state(self) -> dict[str, Tensor]:
        return dict(self._checkpoint["model"])

    def store(
        self, state: Mapping[str, Tensor], changed: set[str], config: str | None, undo: UndoRecord | None
    ) -> None:
        from dsp_plugin.mt.checkpoints.checkpoint import save_checkpoint

        check_inside(self.path.parent, self.undo_path, own=True)
        if undo is not None:
            undo.save(self.undo_path)
        save_checkpoint({**self._checkpoint, "model": dict(state)}, str(self.path))
        if undo is None:
            self.undo_path.unlink(missing_ok=True)

    def copy_to(self, out: str, state: Mapping[str, Tensor], model_config: Mapping[str, Any] | None) -> None:
        from dsp_plugin.mt.checkpoints.checkpoint import save_checkpoint

        content = {key: value for key, value in self._checkpoint.items() if key != "last_optimizer_state"}
        save_checkpoint({**content, "model": dict(state)}, out)

    def config_text(self) -> str | None:
        return None

    def configured(self, model_config: Mapping[str, Any]) -> str | None:
        return None
