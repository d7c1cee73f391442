"""The stages of diff pruning on fairseq, each in a folder of its own: one that is done is skipped, one that
was stopped goes on, one of other settings is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...diffs import DiffPack
from ...diffs.packs.summary import pack_label, record_figures
from ...records.files.sealed import read_json, write_json
from ...records.files.whole import check_folder
from ...records.record import load_record
from ...records.settings import other_settings, refusal
from ..checkpoints.checkpoint import load_checkpoint
from ..diffs.base import BaseCheckpoint
from ..diffs.packs import Projection, read_trained, write_pack
from ..patches import forget_best_score
from ..training.option_checks import check_options
from ..training.same_command import difference, settings_of
from .launch import train, training_options
from .training_results import result_of, summarise_training

_SETTINGS = "settings.json"
# of a mask's projection: part -> option
_PROJECTED_BY = {
    "density": "--target-sparsity",
    "per_layer": "--per-layer-projection",
    "sampled": "--sampled-diff",
}
# in a mask's configuration, the fingerprint of the training it was projected from
_STAGE1 = "stage1_settings"


@dataclass
class Training:
    """One of the trainings, stage 1 or a stage 3.

    Attributes:
        options: of fairseq-train; their --save-dir is the stage's folder.
        settings: of the options, those that the result depends on; known once `check` has looked at them.
    """

    options: argparse.Namespace
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        return self.options.save_dir

    def check(self) -> None:
        """Look at all options, and compare them with those that the folder was started with.

        Raises:
            ValueError: options that cannot be; the folder holds a training with other settings.
        """
        check_options(self.options)
        check_folder("--save-dir", self.folder)
        self.settings = settings_of(self.options)
        noted = self._noted()
        if isinstance(noted, list):  # of an earlier version: the words as they were written
            noted = settings_of(training_options([*noted, "--save-dir", self.folder]))
        if noted is not None:
            differing = difference(noted, self.settings)
            if differing:
                raise refusal(f"{self.folder} holds a training", differing[:4], "name another --save-dir")

    def fingerprint(self) -> str:
        """Return the SHA-256 of the settings that the folder was started with."""
        noted = self._noted() or self.settings
        text = json.dumps(noted, sort_keys=isinstance(noted, dict))
        return hashlib.sha256(text.encode()).hexdigest()

    def run(self, label: str, name: str, finished: Callable[[], dict[str, Any]]) -> None:
        """Train, unless it is done.

        Args:
            label, name: of the method and of the setting, for the record.
            finished: called at its end; what it returns goes into the record, too.
        """
        if os.path.isfile(os.path.join(self.folder, "results.json")):
            say(f"{self.folder} is done")
            return
        path = os.path.join(self.folder, _SETTINGS)
        if not os.path.isfile(path):
            write_json(path, json.dumps({"settings": self.settings}) + "\n")
        # killed after its last update: fairseq would make one more
        if self._is_at_its_end():
            summarise_training(self.folder, 0.0, label, name, finished)
            return
        forget_best_score()
        train(self.options, label, name, finished)

    def _is_at_its_end(self) -> bool:
        """Whether the last checkpoint is that of the last update."""
        last, updates = os.path.join(self.folder, "checkpoint_last.pt"), self.options.max_update
        if not updates or not os.path.isfile(last):
            return False
        return load_checkpoint(last)["optimizer_history"][-1]["num_updates"] >= updates

    def _noted(self) -> dict[str, Any] | list[str] | None:
        """Return the folder's settings: by option, or as an earlier version's words; None without any."""
        path = os.path.join(self.folder, _SETTINGS)
        if not os.path.isfile(path):
            return None
        noted = read_json(path)
        return noted.get("settings", noted.get("options")) if isinstance(noted, dict) else noted


@dataclass
class Share:
    """A share of the weights that may differ: projected out of stage 1, then finetuned.

    Attributes:
        text: the density as it was written, the name of its folder.
        projection: of stage 2. stage1, stage3: the trainings before and after it.
        mask, pack: the files that stages 2 and 3 end in.
    """

    text: str
    projection: Projection
    stage1: Training
    stage3: Training
    mask: str
    pack: str

    def check(self) -> None:
        """Look at the options of stage 3, and at the mask where there is one.

        Raises:
            ValueError: as `Training.check`; a mask that was projected with other options, or from a stage 1
                that had others.
        """
        self.stage3.check()
        if os.path.isfile(self.mask):
            self._check_mask()

    def _check_mask(self) -> None:
        made_by = DiffPack.load(self.mask).config
        there, here = made_by.get("projection") or {}, vars(self.projection)
        differing = other_settings(there, here, spelled=lambda part: _PROJECTED_BY.get(part, part))
        if differing:
            raise refusal(f"{self.mask} was projected", differing, "name another --save-dir")
        # it may have been removed, and trained once more
        if _STAGE1 in made_by and made_by[_STAGE1] != self.stage1.fingerprint():
            raise refusal(
                f"{self.mask} is of a stage 1",
                [],
                f"remove {os.path.dirname(self.mask)}, or name another --save-dir",
            )

    def project(self, base: BaseCheckpoint) -> None:
        """Run stage 2: write the mask, unless it is there. Errors as `check`."""
        if os.path.isfile(self.mask):
            self._check_mask()
            return
        trained = os.path.join(self.stage1.folder, "checkpoint_last.pt")
        made_by = {_STAGE1: self.stage1.fingerprint()}
        write_pack(self.mask, trained, base, self.projection, "float32", made_by)

    def finetune(self, base: BaseCheckpoint, name: str, dtype: str) -> DiffPack:
        """Run stage 3: train what the mask keeps, and write the task's pack, its values as `dtype`."""

        def finished() -> dict[str, Any]:
            written = write_pack(self.pack, result_of(self.stage3.folder), base, dtype=dtype)
            return {"diff": record_figures(*written)}

        self.stage3.run(pack_label(DiffPack.load(self.mask)), name, finished)
        return DiffPack.load(self.pack)

    def line(self, pack: DiffPack) -> str:
        """Say in a line what came of it."""
        changed = f"{pack.count:,} of {pack.base.total:,} weights"
        size = f"{os.path.getsize(self.pack):,} bytes in {self.pack}"
        return f"{self.text}: {changed}, {size}; {validation_of(self.stage3.folder)}"


def unprojected_figures(folder: str, base: BaseCheckpoint) -> dict[str, Any]:
    """Count the weights that differ from the base at the end of stage 1."""
    trained = read_trained(os.path.join(folder, "checkpoint_last.pt"), base.model())
    nonzeros = sum(int(trained.deltas[name].count_nonzero()) for name in trained.deltas)
    total = sum(trained.deltas[name].numel() for name in trained.deltas)
    return {
        "nonzeros": nonzeros,
        "total": total,
        "density": nonzeros / total,
        "method": trained.config["method"],
    }


def validation_of(folder: str) -> str:
    """Return what the record of a stage says of its validation."""
    metrics = load_record(os.path.join(folder, "results.json")).metrics
    return (
        ", ".join(f"{metric.name} {metric.value:.4g} on {metric.subset}" for metric in metrics)
        or "not validated"
    )


def say(text: str) -> None:
    print(f"| {text}", flush=True)
