"""Tuning: what a training has written, a pruned model or a whole one, is trained on in the same command.

It is plain finetuning of that folder, with a Trainer, an optimizer and a schedule of its own, in a folder of
its own: the model is the one that `run_glue.py --model_name_or_path` of that folder would make. So models of
every system are tuned alike, and the unpruned one can be the fair baseline of a pruned one.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from transformers import SchedulerType

from ....options.errors import OptionError
from ....records.files.whole import check_folder
from ...trainer.updates import training_steps
from .arguments import option
from .output_folder import check_training
from .parsing import say
from .results import Outcome
from .system import Setup, System
from .train import run_system

TUNED = "tuned"  # the folder, in --output_dir and --record_dir
WARMUP = 0.1  # of the updates; then the rate falls to zero on a straight line


@dataclass
class TuningArguments:
    """Whether the model is trained on, and how."""

    tune_epochs: Annotated[float | None, "positive"] = option(
        "then train the model that was written on for N epochs, the smaller one where heads were removed: in "
        "output_dir/tuned, with a new optimizer and a rate that falls to zero again"
    )
    tune_learning_rate: Annotated[float | None, "positive"] = option(
        "peak of the learning rate of --tune_epochs, after a tenth of its updates; default: --learning_rate"
    )

    def check(self) -> None:
        """Raise a ValueError naming what does nothing alone; numbers are `option_checks`'."""
        if self.tune_learning_rate is not None and self.tune_epochs is None:
            raise OptionError("tune_learning_rate", "is the rate of {}, which is missing", "tune_epochs")


TuningArguments._argument_group_name = "Tuning"  # type: ignore[attr-defined]


class TunedSystem(System):
    """Plain finetuning of what a system has written; its name in the settings tells of which system."""

    def __init__(self, setup: Setup, method: str):
        super().__init__(setup)
        self.method = method

    def method_name(self) -> str:
        return f"{self.method}-tuned"

    def finish(self, model: Any, heads: Mapping[str, Any] | None, parameters: Mapping[str, int]) -> None:
        """Print nothing: the heads are those that were printed before."""


def train_and_tune(system: System, tuning: TuningArguments, source: str = "") -> dict[str, Any]:
    """Run a system and, where `--tune_epochs` says so, train on what it has written.

    Args:
        source: the folder in --output_dir with the model to train on; none for --output_dir itself.

    Returns:
        split -> metrics as the Trainer names them, of every scored split of the last model.

    Raises:
        ValueError, OSError: options, model, data or folder that cannot be; before training.
    """
    if tuning.tune_epochs is None:
        return run_system(system).scores
    setup = system.setup
    args, results = setup.args, setup.results
    if not args.do_train:
        raise OptionError("tune_epochs", "trains on what was trained: give {}", "do_train")
    if args.deepspeed:
        raise OptionError("tune_epochs", "does not go with {}: tune by a command of its own", "deepspeed")
    before_folder, after = _place(args.output_dir, source), setup_of_tuning(setup, tuning, source)
    check_folder("output_dir", after.args.output_dir)
    if after.results.record_dir:
        check_folder("record_dir", after.results.record_dir)
    check_training(after.args, results.overwrite_output_dir)
    system.parts = (TUNED,)
    epochs = f"{tuning.tune_epochs:g} epoch{'' if tuning.tune_epochs == 1 else 's'}"

    def tune(before: Outcome) -> Outcome:
        _wait_for_files(args.world_size)
        gc.collect()  # the first Trainer, its model and its moments
        say(f"tuning: {epochs} of {before_folder}")
        after.results.method = f"{before.label}-tuned"
        found = run_system(TunedSystem(after, system.method_name()))
        if setup.is_main:
            _say_both(before, found, [before_folder, after.args.output_dir])
            folders = (one.results.record_dir or one.args.output_dir for one in (setup, after))
            say(f"records: {', '.join(_place(folder, '') for folder in folders)}")
        return found

    found = run_system(system, tune)
    if results.dry_run:
        updates = training_steps(after.args, len(setup.task.train))
        say(
            f"dry run: then {epochs} of {before_folder} in {after.args.output_dir}: "
            f"{updates:,} updates, learning rate {after.args.learning_rate:g}"
        )
    return found.scores


def setup_of_tuning(setup: Setup, tuning: TuningArguments, source: str) -> Setup:
    """Return the options of the tuning; `source` as in `train_and_tune`.

    The `TrainingArguments` are a copy, because a Trainer and a dry run write into theirs.
    """
    args, record_dir = copy.copy(setup.args), setup.results.record_dir
    args.output_dir = _place(args.output_dir, TUNED)
    args.num_train_epochs, args.max_steps = tuning.tune_epochs, -1
    if tuning.tune_learning_rate is not None:
        args.learning_rate = tuning.tune_learning_rate
    args.lr_scheduler_type, args.lr_scheduler_kwargs = SchedulerType.LINEAR, None
    args.warmup_steps = WARMUP
    args.resume_from_checkpoint = None  # which names one of the first training
    model = setup.model.at(_place(setup.args.output_dir, source))
    results = replace(setup.results, record_dir=_place(record_dir, TUNED) if record_dir else None)
    return Setup(model, setup.data, results, args)


def _place(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}".rstrip("/") or "/"


def _wait_for_files(processes: int) -> None:
    """Let no process look for the model before the first one has written it."""
    if processes > 1 and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _say_both(before: Outcome, after: Outcome, folders: list[str]) -> None:
    """Print what the tuning has changed."""
    say(f"tuned for {after.updates:,} updates: {before.label} in {folders[0]}, {after.label} in {folders[1]}")
    for one, other in zip(before.metrics, after.metrics):
        say(
            f"{one.name} on {one.subset}: {one.value:.2f} {one.unit} before tuning, {other.value:.2f} "
            f"{other.unit} after"
        )
    heads, parameters = after.heads, after.parameters
    counted = "" if heads is None else f"{heads['kept']} of {heads['total']} heads, "
    say(f"{counted}{parameters['after']:,} of {parameters['before']:,} parameters")
