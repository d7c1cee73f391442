"""The three stages of DSEE on fairseq in one command: fairseq-train's options, and a few more."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from functools import partial

from ....dsee.artefact import DseeFile
from ....dsee.labels import label_of
from ....options.errors import OptionError
from ...dsee.files import FILE, read_file
from ...dsee.layer import roles_of
from ...dsee.pruning import Pruning
from ...dsee.starting import NewUpdate
from ...surgery.base_checkpoint import BaseCheckpoint, read_base
from ...training.same_command import settings_of
from ..chassis.argv import OwnOptions, value
from ..chassis.dry_run import dry_run
from ..chassis.launch import arch_of, training_options, training_parser, with_choice
from ..chassis.stages import Training, falling_rate, number, say, validation_of
from .stages import STAGE1, Prune, Update

FIRST, SECOND, THIRD = "1st", "2nd", "3rd"

# option -> how its text is read, and what holds without it
PRUNING = {
    "pruning_ratio": (number, 0.0),
    "ad_pruning_ratio": (number, 0.0),
    "prune_mode": (str, "WABS"),
    "prune_heads_num": (int, 0),
    "prune_neurons": (number, 0.0),
    "neurons": (int, 32),
}


def add_pruning(parser: argparse.ArgumentParser) -> None:
    """Add the options of stage II, spelled with hyphens or underscores."""
    for name, (kind, default) in PRUNING.items():
        parser.add_argument(f"--{name.replace('_', '-')}", f"--{name}", dest=name, type=kind, default=default)


def pruning_of(own: argparse.Namespace, seed: int) -> Pruning:
    """Return what the options of stage II ask for. Errors as `Pruning`."""
    return Pruning(**{name: getattr(own, name) for name in PRUNING}, seed=seed)


def own_options() -> OwnOptions:
    """Return a parser of the options `run_dsee.py` adds to fairseq-train's."""
    parser = OwnOptions("--record-name")
    add_pruning(parser)
    parser.add_argument("--third-lr", "--third_lr", type=number)
    parser.add_argument("--third-max-update", "--third_max_update", type=int)
    parser.add_argument("--third-max-epoch", "--third_max_epoch", type=int)
    parser.flag("--dry-run", "say what would train; write nothing")
    return parser


def run_dsee(argv: Sequence[str]) -> DseeFile | None:
    """Run all stages. One that is done is skipped, one that was stopped goes on.

    Returns:
        The file of stage III; None for a dry run.

    Raises:
        ValueError, OSError: options or files that cannot be, before anything is trained; a save folder of
            other settings.
    """
    own, words = own_options().split(argv)
    _check(own, words)
    options = _training_options(words)
    pruning = pruning_of(own, options.seed)
    base = read_base(options.base_checkpoint, "is updated")
    update = NewUpdate.of(vars(options), options.seed)
    update.matrices(base)
    pruning.check(base, roles_of(update.dsee_targets))
    name = own.record_name or os.path.basename(os.path.abspath(options.save_dir))
    first, prune, third = _stages(own, words, options, pruning)
    # all of them now: what a later one refuses is refused before the first
    first.training.check()
    prune.check()
    before = {"pruning": pruning.figures(), STAGE1: first.training.fingerprint()}
    third.training.settings = {**settings_of(third.training.options), **before}
    third.training.check()
    if own.dry_run:
        dry_run(first.training.options)
        gone = ", ".join(f"{key} {value}" for key, value in pruning.figures().items())
        say(f"then stage II ({gone}), and stage III, as long a training of what is left")
        return None
    return _run(first, prune, third, base, update, name)


def _run(
    first: Update, prune: Prune, third: Update, base: BaseCheckpoint, update: NewUpdate, name: str
) -> DseeFile:
    made = {"num_sparse": update.num_sparse, "sparse_method": update.sparse_method}
    say(f"stage I: {first.training.folder}")
    first.run(base, name, label_of(made))
    say(f"stage II: {prune.folder}")
    prune.run(base, name)
    say(f"stage III: {third.training.folder}")
    pruned = read_file(prune.path)
    third.run(base, name, label_of({**pruned.config, "stage": "III"}))
    folders = {"I": first.training.folder, "II": prune.folder, "III": third.training.folder}
    for stage, folder in folders.items():
        file, size = read_file(folder), os.path.getsize(os.path.join(folder, FILE))
        told = f"{validation_of(folder)}; {file.count:,} learn, {size:,} bytes"
        say(f"stage {stage}, {label_of(file.config)}: {told}")
    return read_file(third.path)


def _check(own: argparse.Namespace, words: Sequence[str]) -> None:
    """Refuse what no stage can be trained with; `words` are of fairseq-train's options."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            "run_dsee.py starts its own processes, one a GPU: start it without torchrun, or each stage by "
            "fairseq-train"
        )
    for name in ("restore_file", "dsee_checkpoint"):
        if value(words, f"--{name.replace('_', '-')}"):
            reason = "cannot be given: the three stages start from {}, and go on from {}"
            raise OptionError(name, reason, "base_checkpoint", "save_dir")
    task = value(words, "--task")
    if task not in (None, "dsee_translation"):
        raise OptionError("task", f"{task}: updates are trained by dsee_translation")
    for name in ("third_lr", "third_max_update", "third_max_epoch"):
        given = getattr(own, name)
        if given is not None and not 0 < given < math.inf:
            raise OptionError(name, f"must be above 0 and finite, got {given}")


def _training_options(words: Sequence[str]) -> argparse.Namespace:
    """Read fairseq-train's options as stage I takes them; --finetune-from-model names the base, too."""
    defaults = {"arch": "dsee_transformer", "optimizer": "adam"}
    falling = falling_rate(words)
    meant = {"arch": partial(arch_of, method="dsee")}
    make = partial(training_parser, "dsee_translation", meant, **defaults, **falling)
    parsed = training_options(words, make)
    start = parsed.finetune_from_model
    if start and parsed.base_checkpoint not in (None, start):
        raise OptionError("finetune_from_model", "and {} name two bases", "base_checkpoint")
    base = {"base_checkpoint": parsed.base_checkpoint or start, "finetune_from_model": None}
    vars(parsed).update(falling, no_epoch_checkpoints=True, **base)
    return parsed


def _stages(
    own: argparse.Namespace, words: Sequence[str], options: argparse.Namespace, pruning: Pruning
) -> tuple[Update, Prune, Update]:
    """Prepare the stages."""
    folder = {part: os.path.join(options.save_dir, part) for part in (FIRST, SECOND, THIRD)}
    first = Update("I", Training(argparse.Namespace(**{**vars(options), "save_dir": folder[FIRST]})))
    later = argparse.Namespace(**{**vars(options), "save_dir": folder[THIRD]})
    later.dsee_checkpoint = os.path.join(folder[SECOND], FILE)
    changed = {
        "lr": own.third_lr and [own.third_lr],
        "max_update": own.third_max_update,
        "max_epoch": own.third_max_epoch,
    }
    vars(later).update({name: given for name, given in changed.items() if given is not None})
    if value(words, "--lr-scheduler") is None and later.max_update:
        total = str(later.max_update)  # as fairseq's parser leaves it
        later = with_choice(later, "lr_scheduler", "polynomial_decay", total_num_update=total)
    return first, Prune(folder[SECOND], pruning, first, later), Update("III", Training(later))
