"""The stages of Delta-Tuning on fairseq in one command: fairseq-train's options, and a few more."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ....delta.artefact import DeltaFile
from ....delta.labels import label_of
from ....delta.stages import parse_stages
from ....options.errors import OptionError, dashed
from ....options.numbers import check_number
from ....records.files.whole import check_output
from ...delta.account import account_lines, account_of
from ...delta.files import FILE, file_of_checkpoint, read_file, write_file
from ...delta.layer import METHODS
from ...delta.starting import OPTIONS_OF, NewDelta, check_methods
from ...surgery.base_checkpoint import BaseCheckpoint, read_base
from ..chassis.argv import OwnOptions, given, value
from ..chassis.dry_run import dry_run
from ..chassis.launch import arch_of, training_options, training_parser, with_choice
from ..chassis.stages import Training, falling_rate, number, say, validation_of
from ..chassis.training_results import result_of

FOLDERS = ("1st", "2nd", "3rd")
_BEFORE = "stage_before"  # among the settings of a stage: the fingerprint of the one before it


@dataclass
class Stage:
    """The training of some methods, after those of the stages before it.

    Attributes:
        methods: of the stage. before: the stages before it. training: as fairseq makes it.
    """

    methods: tuple[str, ...]
    before: list[Stage]
    training: Training

    @property
    def path(self) -> str:
        return os.path.join(self.training.folder, FILE)

    @property
    def label(self) -> str:
        stages = [*self.before, self]
        return label_of({method: n for n, one in enumerate(stages) for method in one.methods})

    def check(self) -> None:
        """Look at all options and at the folder; `before` were looked at. Errors as `Training.check`."""
        self.training.check()
        if not self.before:
            return
        # it may have been removed, and trained otherwise
        self.training.settings[_BEFORE] = self.before[-1].training.fingerprint()
        self.training.check()

    def run(self, base: BaseCheckpoint, name: str) -> None:
        """Train, unless it is done, and write the file and the record.

        Args:
            name: of the setting, for the record.
        """

        def finished() -> dict[str, Any]:
            file = file_of_checkpoint(result_of(self.training.folder), base)
            write_file(file, self.path)
            account = account_of(base, file, self.path)
            for line in account_lines(account):
                say(line)
            return {"delta": account}

        self.training.run(self.label, name, finished)


def own_options() -> OwnOptions:
    """Return a parser of the options `run_delta.py` adds to fairseq-train's, or reads otherwise."""
    parser = OwnOptions("--record-name")
    parser.add_argument("--delta-methods", "--delta_methods", nargs="+")
    parser.add_argument("--stage-lr", "--stage_lr", nargs="+", type=number)
    parser.add_argument("--stage-max-update", "--stage_max_update", nargs="+", type=number)
    parser.flag("--dry-run", "say what would train; write nothing")
    return parser


def run_delta(argv: Sequence[str]) -> DeltaFile | None:
    """Run all stages. One that is done is skipped, one that was stopped goes on.

    Returns:
        The file of the last one; None for a dry run.

    Raises:
        ValueError, OSError: options or files that cannot be, before anything is trained; a save folder of
            other settings.
    """
    own, words = own_options().split(argv)
    methods = _check(own, words)
    options = _training_options(own, words)
    base = read_base(options.base_checkpoint, "is tuned")
    stages = _stages(own, words, options, methods)
    for one in stages:  # what a later one refuses is refused before the first
        before = [name for earlier in one.before for name in earlier.methods]
        chosen = {**vars(options), "delta_methods": ",".join(one.methods), "delta_before": ",".join(before)}
        new = NewDelta.of(chosen, options.seed)
        new.check(base.options)
        if "lora" in one.methods:
            new.file(base)
        one.check()
    if own.dry_run:
        dry_run(stages[0].training.options)
        for one in stages[1:]:
            say(f"then a stage of {', '.join(one.methods)}")
        return None
    name = own.record_name or os.path.basename(os.path.abspath(options.save_dir))
    for one in stages:
        say(f"stage of {', '.join(one.methods)}: {one.training.folder}")
        one.run(base, name)
    out = os.path.join(options.save_dir, FILE)
    check_output("--save-dir", out, {})
    file = read_file(stages[-1].path)
    write_file(file, out)
    for one in stages:
        stored = read_file(one.path)
        told = f"{validation_of(one.training.folder)}; {stored.count:,} numbers in all"
        say(f"{one.label}: {told}, {os.path.getsize(one.path):,} bytes")
    say(f"with the base it is the model: {out}")
    return file


def _check(own: argparse.Namespace, words: Sequence[str]) -> list[tuple[str, ...]]:
    """Refuse what no stage can be trained with; return the methods of each."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            "run_delta.py starts its own processes, one a GPU: start it without torchrun, or each stage by "
            "fairseq-train"
        )
    for name in ("restore_file", "delta", "delta_before"):
        if value(words, dashed(name)):
            reason = "cannot be given: the stages start from {}, and go on from {}"
            raise OptionError(name, reason, "base_checkpoint", "save_dir")
    task = value(words, "--task")
    if task not in (None, "delta_translation"):
        raise OptionError("task", f"{task}: deltas are trained by delta_translation")
    if not own.delta_methods:
        raise OptionError("delta_methods", f"names no method: give some of {', '.join(METHODS)}")
    for text in own.delta_methods:
        check_methods(text)
    methods = list(parse_stages(own.delta_methods, "delta_methods"))
    present = {method for stage in methods for method in stage}
    for method, names in OPTIONS_OF.items():
        for name in names if method not in present else ():
            if {dashed(name), f"--{name}"} & {*given(words)}:
                raise OptionError(name, f"says nothing: {{}} has no {method}", "delta_methods")
    for name, meaning in (("stage_lr", "positive"), ("stage_max_update", "count")):
        numbers = getattr(own, name)
        if numbers is None:
            continue
        if len(numbers) != len(methods):
            reason = f"has {len(numbers)} numbers for the {len(methods)} stages of {{}}"
            raise OptionError(name, reason, "delta_methods")
        wrong = check_number(numbers, meaning)
        if wrong:
            raise OptionError(name, f"{' '.join(map(str, numbers))}: {wrong}")
    return methods


def _training_options(own: argparse.Namespace, words: Sequence[str]) -> argparse.Namespace:
    """Read fairseq-train's options as a stage takes them; --finetune-from-model names the base, too."""
    longest = ["--max-update", str(int(max(own.stage_max_update)))] if own.stage_max_update else []
    falling = falling_rate([*words, *longest])
    meant = {"arch": partial(arch_of, method="delta")}
    defaults = {"arch": "delta_transformer", "optimizer": "adam", **falling}
    parsed = training_options(words, partial(training_parser, "delta_translation", meant, **defaults))
    start = parsed.finetune_from_model
    if start and parsed.base_checkpoint not in (None, start):
        raise OptionError("finetune_from_model", "and {} name two bases", "base_checkpoint")
    base = {"base_checkpoint": parsed.base_checkpoint or start, "finetune_from_model": None}
    vars(parsed).update(falling, no_epoch_checkpoints=True, **base)
    return parsed


def _stages(
    own: argparse.Namespace,
    words: Sequence[str],
    options: argparse.Namespace,
    methods: Sequence[tuple[str, ...]],
) -> list[Stage]:
    """Prepare the stages."""
    found: list[Stage] = []
    for position, named in enumerate(methods):
        changed: dict[str, Any] = {"delta_methods": ",".join(named)}
        changed["save_dir"] = os.path.join(options.save_dir, FOLDERS[position])
        # of the methods that come later it knows nothing
        present = {method for stage in methods[: position + 1] for method in stage}
        for method, names in OPTIONS_OF.items():
            if method not in present:
                changed |= dict.fromkeys(names)
        if found:
            changed["delta"] = found[-1].path
        if own.stage_lr:
            changed["lr"] = [own.stage_lr[position]]
        if own.stage_max_update:
            changed["max_update"] = int(own.stage_max_update[position])
        of_stage = argparse.Namespace(**{**vars(options), **changed})
        if value(words, "--lr-scheduler") is None and of_stage.max_update:
            total = str(of_stage.max_update)  # as fairseq's parser leaves it
            of_stage = with_choice(of_stage, "lr_scheduler", "polynomial_decay", total_num_update=total)
        found.append(Stage(named, list(found), Training(of_stage)))
    return found
