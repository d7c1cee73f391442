"""A training that is one stage of a program: one that is done is skipped, one that was stopped goes on, one
of other settings is refused.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ....records.files.sealed import read_json, write_json
from ....records.files.whole import check_folder
from ....records.record import load_record
from ....records.settings import refusal
from ...checkpoints.checkpoint import load_checkpoint
from ...patches import forget_best_score
from ...training.option_checks import check_options
from ...training.same_command import difference, settings_of
from .argv import value
from .launch import train, training_options
from .training_results import summarise_training

_SETTINGS = "settings.json"


@dataclass
class Training:
    """One of the trainings of a program that has several.

    Attributes:
        options: of fairseq-train; their --save-dir is the stage's folder.
        settings: what the result depends on; by default that of the options, once `check` has looked.
        remedy: what a user can do where the folder holds a training with other settings.
    """

    options: argparse.Namespace
    settings: dict[str, Any] = field(default_factory=dict)
    remedy: str = "name another --save-dir"

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
        self.settings = self.settings or settings_of(self.options)
        noted = self.noted()
        if isinstance(noted, list):  # of an earlier version: the words as they were written
            noted = settings_of(training_options([*noted, "--save-dir", self.folder]))
        if noted is not None:
            differing = difference(noted, self.settings)
            if differing:
                raise refusal(f"{self.folder} holds a training", differing[:4], self.remedy)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the settings that the folder was started with."""
        noted = self.noted() or self.settings
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
        gc.collect()  # the model of a training before this one
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        train(self.options, label, name, finished)

    def _is_at_its_end(self) -> bool:
        """Whether the last checkpoint is that of the last update."""
        last, updates = os.path.join(self.folder, "checkpoint_last.pt"), self.options.max_update
        if not updates or not os.path.isfile(last):
            return False
        return load_checkpoint(last)["optimizer_history"][-1]["num_updates"] >= updates

    def noted(self) -> dict[str, Any] | list[str] | None:
        """Return the folder's settings: by option, or as an earlier version's words; None without any."""
        path = os.path.join(self.folder, _SETTINGS)
        if not os.path.isfile(path):
            return None
        noted = read_json(path)
        return noted.get("settings", noted.get("options")) if isinstance(noted, dict) else noted


def number(text: str) -> float:
    """Read a number; of what is none, the one that is refused by the option's name."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def falling_rate(words: Sequence[str]) -> dict[str, Any]:
    """Return the options by which the learning rate falls linearly to 0 over the updates of a stage.

    So it is where the command line names no schedule. By --max-epoch alone the number of updates is not known
    before the data are read: then the rate is constant, there are no such options, and this says so.

    Args:
        words: of fairseq-train's options.
    """
    if value(words, "--lr-scheduler") is not None:
        return {}
    updates = value(words, "--max-update")
    if updates in (None, "0"):
        falls = "with it, it falls linearly to 0 (--lr-scheduler: as you like)"
        say(f"without --max-update the rate does not fall; {falls}")
        return {}
    return {"lr_scheduler": "polynomial_decay", "total_num_update": updates}


def validation_of(folder: str) -> str:
    """Return what the record of a stage says of its validation."""
    metrics = load_record(os.path.join(folder, "results.json")).metrics
    return (
        ", ".join(f"{metric.name} {metric.value:.4g} on {metric.subset}" for metric in metrics)
        or "not validated"
    )


def say(text: str) -> None:
    print(f"| {text}", flush=True)
