"""The three stages of diff pruning in one command, the last two for each of several densities."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ....diffs import DiffPack
from ....options.errors import OptionError
from ....options.numbers import number
from ....records.files.whole import check_folder
from ..chassis.arguments import GlueArguments, SquadArguments
from ..chassis.output_folder import check_training
from ..chassis.parsing import say
from ..chassis.places import check_written_file
from ..chassis.system import Setup
from ..chassis.train import train_system
from .arguments import DiffOptions
from .fixmask import FixMaskStage
from .project import ProjectStage
from .prune import INFO, prune, run_prune
from .stage import PACK, read_stage_options

# The paper's hyperparameters; what the command line says comes after and wins.
PAPER = "--per_device_train_batch_size 8 --learning_rate 1e-5 --num_train_epochs".split()
LONGER = ("MRPC", "STS-B", "RTE", "SST-2")  # 5 epochs in stage 3, the others 3
MASK = "mask.diff.safetensors"
# Options of a single stage that would be wrong for the others, or that this program gives itself.
_NOT_HERE = {
    "baseline": "it has one stage; its program is {prune}, and {mag} takes the folder of `full`",
    "threshold": "the densities are those of --target_sparsity; {mag} takes it",
    "eval_checkpoint": "stage 1 writes it",
    "save_checkpoint": "the masks are in --output_dir",
    "mask_checkpoint": "stage 2 writes it",
    "save_pack": "the packs are in --output_dir, one a density",
    "method": "each stage has its name in the records",
}


def run_all(doc: str, data: type, argv: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Run the three stages, the last two for each density.

    Args:
        doc: its help. data: `GlueArguments` or `SquadArguments`.

    Returns:
        density as it was written -> split -> metrics of the final pack.

    Raises:
        ValueError, OSError: options, model, data or files that cannot be.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--target_sparsity", "--target-sparsity", nargs="+", default=["0.005"])
    parser.add_argument(
        "--finetune_learning_rate", "--finetune-learning-rate", type=number("positive"), default=5e-5
    )
    parser.add_argument("--finetune_num_train_epochs", "--finetune-num-train-epochs", type=number("positive"))
    for name in _NOT_HERE:
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}")
    own, rest = parser.parse_known_args(list(argv))
    if "--help" in rest or "-h" in rest:
        return run_prune(doc, data, ["--help"])
    resume = ("--resume_from_checkpoint", "--resume-from-checkpoint")
    named = [word for word in rest if word.startswith(resume)]
    if named:
        raise ValueError(
            f"{named[0]}: each stage goes on from the last checkpoint in its own folder; start "
            "the same command again"
        )
    _refuse(own, "glue" if data is GlueArguments else "squad")
    densities = _densities(own.target_sparsity)
    first_epochs = "3" if data is GlueArguments else "2"
    setup, options = read_stage_options(doc, data, [*PAPER, first_epochs, *rest])
    epochs = own.finetune_num_train_epochs
    if epochs is None:
        epochs = 2.0 if data is SquadArguments else 5.0 if setup.task.name in LONGER else 3.0

    def projection(density: str) -> tuple[Setup, DiffOptions]:
        given = {
            "eval_checkpoint": f"{setup.args.output_dir}/{INFO}",
            "save_checkpoint": f"{setup.args.output_dir}/{density}/{MASK}",
        }
        chosen = replace(options.projection, target_sparsity=float(density), **given)
        return setup.within(f"{density}/2nd"), replace(options, projection=chosen)

    def fixmask(density: str) -> tuple[Setup, DiffOptions]:
        here = setup.within(f"{density}/3rd")
        here.args.learning_rate, here.args.num_train_epochs = own.finetune_learning_rate, epochs
        folder = f"{setup.args.output_dir}/{density}"
        chosen = replace(options.fixmask, mask_checkpoint=f"{folder}/{MASK}", save_pack=f"{folder}/{PACK}")
        return here, replace(options, fixmask=chosen)

    for density in densities:  # nothing that a later stage will need is found missing after the first
        second, third = projection(density), fixmask(density)
        _check_later(second[0], second[1].projection.save_checkpoint)
        _check_later(third[0], third[1].fixmask.save_pack)
        check_training(third[0].args, setup.results.overwrite_output_dir)
    say("stage 1: diff pruning")
    prune(setup.within(""), options)
    if setup.results.dry_run:
        say(f"then for each of {', '.join(densities)}: projection, and {epochs:g} epochs of what is kept")
        return {}
    found: dict[str, dict[str, Any]] = {}
    for density in densities:
        say(f"stage 2: projection to {density}")
        train_system(ProjectStage(*projection(density)))
        say(f"stage 3: finetuning of the share {density}")
        found[density] = train_system(FixMaskStage(*fixmask(density)))
    for density, scores in found.items():
        _say_result(setup, density, scores)
    return found


def _say_result(setup: Setup, density: str, scores: dict[str, Any]) -> None:
    """Print the size of a density's pack, and its scores."""
    path = f"{setup.args.output_dir}/{density}/{PACK}"
    if os.path.isfile(path):  # without --do_train there is none
        pack = DiffPack.load(path)
        say(
            f"{density}: {pack.count:,} of {pack.base.total:,} weights, {os.path.getsize(path):,} bytes "
            f"in {path}"
        )
    for split, metrics in scores.items():
        shown = [
            f"{name} {setup.task.scale * value:.2f}"
            for name in setup.task.metrics
            for key, value in metrics.items()
            if f"eval_{name}" in key
        ]
        say(f"{density}: {', '.join(shown)} on {split}")


def _check_later(setup: Setup, written: str) -> None:
    """Raise a ValueError where a stage that is still to come could not write its folders, or its file."""
    check_folder("output_dir", setup.args.output_dir)
    if setup.results.record_dir:
        check_folder("record_dir", setup.results.record_dir)
    read = {"model_name_or_path": setup.model.model_name_or_path}
    check_written_file("output_dir", written, read)


def _densities(words: Sequence[str]) -> list[str]:
    """Return the densities as they were written, each once.

    Raises:
        ValueError: one that is no share of the weights.
    """
    found: dict[float, str] = {}
    for word in words:
        try:
            value = number("share")(word)
        except argparse.ArgumentTypeError as error:
            raise OptionError("target_sparsity", f"{error}") from None
        if value in found:
            say(f"--target_sparsity {word} is {found[value]} once more, and is learnt once")
        found.setdefault(value, word.strip())
    return list(found.values())


def _refuse(own: argparse.Namespace, room: str) -> None:
    """Raise a ValueError for options that cannot be, or are not of this program."""
    programs = {
        "prune": f"scripts/{room}/run_{room}_diffpruning.py",
        "mag": f"scripts/{room}/run_{room}_mag.py",
    }
    for name, why in _NOT_HERE.items():
        value = getattr(own, name)
        # the published "none"
        if value is not None and not (name == "threshold" and value in ("-1", "-1.0")):
            raise OptionError(name, f"{value}: {why.format(**programs)}")


class _Parser(argparse.ArgumentParser):
    """A parser that raises where argparse would end the program."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise ValueError(message)
