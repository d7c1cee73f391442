"""`--tune-updates N`: after a training its dead heads are taken out, and the smaller model is trained on.

An unpruned model is trained on by the same schedule, so that the same command line without its budget is the
baseline: tuned as long. Every part is skipped when it is done, and goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import os
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, Optional

import torch
from fairseq.models import MODEL_DATACLASS_REGISTRY

from ....options.errors import OptionError
from ....options.numbers import number
from ....records.files.whole import check_output
from ....records.record import Record, kept_in_words, load_record
from ...checkpoints.built_in_types import checkpoint_to_start_from, options_by_section
from ...checkpoints.checkpoint import load_checkpoint, save_checkpoint
from ...checkpoints.flat_config import FlatTransformerConfig
from ...heads.checkpoint_heads import SCORES
from ...surgery.pruning import Pruned, prune_state
from ...training.same_command import file_hash, settings_of
from ..chassis.argv import given
from ..chassis.launch import arch_of, renamed, with_choice
from ..chassis.stages import Training, say
from ..chassis.training_results import result_of
from .tuning_schedule import TuningSchedule

PRUNED, TUNED = "checkpoint_pruned.pt", "tuned"  # in SAVE_DIR: a file, a folder
_START = "checkpoint_start.pt"  # in TUNED, where no heads are taken out
_SOURCE = "source"  # in the settings of TUNED: the hash of the checkpoint that the training has come to

# how the training itself starts: it is what it comes to that is tuned
_OF_THE_START = (
    "restore_file",
    "finetune_from_model",
    "reset_optimizer",
    "reset_lr_scheduler",
    "reset_dataloader",
    "reset_meters",
)
# so many updates and no fewer, from a start of their own; all else is as in the training
_TO_THE_END = {
    "restore_file": "checkpoint_last.pt",
    "reset_optimizer": False,
    "reset_lr_scheduler": False,
    "reset_dataloader": False,
    "reset_meters": False,
    "stop_time_hours": 0.0,
    "stop_min_lr": -1.0,
    "patience": -1,
    "validate_after_updates": 0,
    "log_file": None,  # the training's is still written to
}


def schedule_of(own: Namespace, options: Namespace, words: Sequence[str]) -> Optional[TuningSchedule]:
    """Read how the tuning is to go; None where none is asked for.

    Args:
        own: `tune_updates` and `tune_lr` as they were written.
        options: of the training.
        words: the command line they were read from.

    Raises:
        OptionError: numbers that mean nothing; a rate without updates; nothing to take the rate from.
    """
    if own.tune_updates is None:
        if own.tune_lr is not None:
            raise OptionError("tune_lr", "needs {}", "tune_updates")
        return None
    updates = int(_read("tune_updates", own.tune_updates, "count"))
    if own.tune_lr is not None:
        return TuningSchedule(updates, _read("tune_lr", own.tune_lr, "positive"))
    if "--lr" not in given(words) and "--learning-rate" not in given(words):
        raise OptionError("tune_lr", "is missing: without {} there is no rate to take a third of", "lr")
    if not options.lr[0] > 0:
        raise OptionError("tune_lr", f"is missing: {{}} is {options.lr[0]:g}", "lr")
    return TuningSchedule.after(options.lr[0], updates)


def _read(name: str, text: str, meaning: str) -> float:
    try:
        return number(meaning)(text)
    except argparse.ArgumentTypeError as error:
        raise OptionError(name, str(error)) from None


def tuning_options(options: Namespace, schedule: TuningSchedule, method: str) -> Namespace:
    """Return fairseq-train's options of the tuning: those of the training, without gates, by the schedule."""
    values = {**schedule.options(), **_TO_THE_END, "force_anneal": None}
    values.update(lr=[schedule.lr], total_num_update=str(schedule.updates))  # as fairseq's parser leaves them
    del values["lr_scheduler"]
    tuned = with_choice(options, "lr_scheduler", "polynomial_decay", **values)
    gates = MODEL_DATACLASS_REGISTRY[f"{method}_transformer"].__dataclass_fields__
    for name in set(gates) - set(FlatTransformerConfig.__dataclass_fields__):
        vars(tuned).pop(name, None)
    parts = ("translation", "label_smoothed_cross_entropy")
    names = {f"{method}_{part}": f"dsp_{part}" for part in parts}
    tuned.arch = arch_of(options.arch, "dsp")
    tuned.task, tuned.criterion = renamed(names, options.task), renamed(names, options.criterion)
    tuned.save_dir = os.path.join(options.save_dir, TUNED)
    if options.tensorboard_logdir:
        tuned.tensorboard_logdir = os.path.join(options.tensorboard_logdir, TUNED)
    return tuned


class Tuning:
    """What follows a training: the removal of its dead heads, and the training of what is left.

    Args:
        options: of the training, see `launch.method_options`.
        schedule: see `schedule_of`.
        method: prefix of the method's task, model and criterion.
    """

    def __init__(self, options: Namespace, schedule: TuningSchedule, method: str):
        self.schedule = schedule
        self.save_dir = options.save_dir
        self._options = options
        settings = {name: value for name, value in settings_of(options).items() if name not in _OF_THE_START}
        settings.update(tune_updates=schedule.updates, tune_lr=schedule.lr)
        self.stage = Training(
            tuning_options(options, schedule, method),
            settings,
            remedy=f"remove {self.folder}, or name another --save-dir",
        )

    @property
    def folder(self) -> str:
        return os.path.join(self.save_dir, TUNED)

    @property
    def pruned(self) -> str:
        return os.path.join(self.save_dir, PRUNED)

    def check(self) -> None:
        """Look at all that can be known before the training.

        Raises:
            ValueError: a training that is started by process, saves nothing or has no end; a folder of
                another tuning.
        """
        _check_training(self._options)
        check_output("--save-dir", self.pruned)
        self.stage.check()
        begun = [name for name in ("results.json", "checkpoint_last.pt") if self._has(name)]
        if begun and not self.stage.noted():
            raise ValueError(f"{self.folder} holds a training of another program: {self.stage.remedy}")
        if self.stage.noted():
            self._check_source(result_of(self.save_dir))

    def _has(self, name: str) -> bool:
        return os.path.isfile(os.path.join(self.folder, name))

    def _check_source(self, source: Optional[str]) -> str:
        """Return the hash of the checkpoint to tune, which must be the one that a tuning has begun with."""
        found = file_hash(source) if source else ""
        noted = self.stage.noted()
        if noted and noted.get(_SOURCE) != found:
            what = f"another model than {source}" if source else f"a model that is not in {self.save_dir} now"
            raise ValueError(f"{self.folder} holds the tuning of {what}: {self.stage.remedy}")
        return found

    def run(self) -> None:
        """Take the dead heads out of what the training has come to, and train on; then sum both up.

        Raises:
            ValueError: the training saved nothing; a tuning of another model is there.
        """
        source = result_of(self.save_dir)
        if source is None:
            raise ValueError(f"the training saved no checkpoint in {self.save_dir}: there is nothing to tune")
        self.stage.settings[_SOURCE] = self._check_source(source)
        before = load_record(os.path.join(self.save_dir, "results.json"))
        start, removal = self._start(source)
        self.stage.options.finetune_from_model = os.path.abspath(start)
        say(f"tuning in {self.folder}: {self.schedule}")
        notes = {
            "checkpoint": os.path.basename(source),
            "lr": self.schedule.lr,
            "warmup_updates": self.schedule.warmup,
        }
        if removal is not None:
            sizes = {"before": removal.parameters_before, "after": removal.parameters_after}
            notes["parameters"] = sizes
        self.stage.run(f"{before.method}-tuned", before.name, lambda: {"tuning": notes})
        self._sum_up(before, start, removal)

    def _start(self, source: str) -> tuple[str, Optional[Pruned]]:
        """Return the file that the tuning starts from, and what was taken out for it, if anything."""
        state = load_checkpoint(source)
        if SCORES not in state["model"]:
            path = os.path.join(self.folder, _START)
            if not self._has("checkpoint_last.pt"):  # which else is what it goes on from
                os.makedirs(self.folder, exist_ok=True)
                save_checkpoint(
                    checkpoint_to_start_from(state, options_by_section(state), state["model"]), path
                )
            return path, None
        removal = prune_state(state)
        found = _other_than(self.pruned, removal.state)
        if found is not None:
            save_checkpoint(removal.state, self.pruned)
            say(f"{self.pruned}: the heads that {os.path.basename(source)} keeps{found}")
        return self.pruned, removal

    def _sum_up(self, before: Record, start: str, removal: Optional[Pruned]) -> None:
        after = load_record(os.path.join(self.folder, "results.json"))
        say(f"tuned: {self.schedule}")
        earlier = {(metric.name, metric.subset): metric.value for metric in before.metrics}
        for metric in after.metrics:
            value = earlier.get((metric.name, metric.subset))
            known = "" if value is None else f"{value:.4g} before tuning, "
            say(f"{metric.name} on {metric.subset}: {known}{metric.value:.4g} after")
        if removal is not None:
            if any(block.neurons for block in removal.head_map.blocks):
                say(f"units: {kept_in_words(removal.head_map.to_dict(), removal.keep.tolist())}")
            else:
                say(f"heads: {int(removal.keep.sum())} of {removal.head_map.num_heads}")
            old, new = removal.parameters_before, removal.parameters_after
            say(f"parameters: {old:,} before the removal, {new:,} after ({new / old - 1:.1%})")
            say(f"{start}: the smaller model before tuning")
        elif os.path.isfile(start):
            os.remove(start)  # its weights are in the training's own checkpoint
        say(
            f"{os.path.join(self.folder, after.extra['checkpoint'])}: the tuned model; results.json beside it"
        )


def _check_training(options: Namespace) -> None:
    """Refuse a training after which no tuning can come."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        reason = "cannot follow a training that torchrun has started: start the program without it, and it "
        raise OptionError("tune_updates", reason + "starts one process a GPU by itself")
    for name in ("distributed_init_method", "distributed_no_spawn"):
        if getattr(options, name):
            reason = "and {} exclude each other: without it the program starts one process a GPU by itself"
            raise OptionError("tune_updates", reason, name)
    for name in ("no_save", "checkpoint_suffix"):
        if getattr(options, name):
            reason = "and {} exclude each other: what is tuned is the training's checkpoint"
            raise OptionError("tune_updates", reason, name)
    ends = ("max_update", "max_epoch", "stop_time_hours", "patience")
    if not any((getattr(options, name) or 0) > 0 for name in ends) and options.stop_min_lr <= 0:
        reason = "needs a training that comes to an end: give {} or {}"
        raise OptionError("tune_updates", reason, "max_update", "max_epoch")


def _other_than(path: str, state: dict[str, Any]) -> Optional[str]:
    """Say what is to be said of a file that is not the removal in `state`; None where it is just that."""
    if not os.path.exists(path):
        return ""
    try:
        there = load_checkpoint(path)
        tensors, wanted = there["model"], state["model"]
        same = there["cfg"]["model"] == state["cfg"]["model"] and tensors.keys() == wanted.keys()
        same = same and all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    except (ValueError, OSError, KeyError, TypeError):
        return " (the file that was there is damaged)"
    return None if same else " (the file that was there is of another model or choice)"
