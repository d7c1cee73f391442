"""The three stages of diff pruning in one command, the last two for each of several densities."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
from collections.abc import Sequence
from typing import Any

from ....diffs import DiffPack
from ....options.numbers import number
from ....records.files.whole import check_folder
from ...data.glue_tasks import find_task
from ..chassis.arguments import GlueArguments
from ..chassis.output_folder import check_training
from ..chassis.parsing import say
from ..chassis.places import check_written_file
from ..chassis.squad_work import SquadWork
from ..chassis.train import WORK
from .fixmask import FixMaskRun
from .project import ProjectRun
from .prune import INFO, PruneRun
from .run import PACK, run_stage, stage_options

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
    """The whole of the program.

    Args:
        doc: its help. data: `GlueArguments` or `SquadArguments`.

    Returns:
        density as it was written -> split -> metrics of the final pack.

    Raises:
        ValueError, OSError: options, model, data or files that cannot be.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output_dir", "--output-dir")
    parser.add_argument("--task_name", "--task-name")
    parser.add_argument("--target_sparsity", "--target-sparsity", nargs="+", default=["0.005"])
    parser.add_argument(
        "--finetune_learning_rate", "--finetune-learning-rate", type=number("positive"), default=5e-5
    )
    parser.add_argument("--finetune_num_train_epochs", "--finetune-num-train-epochs", type=number("positive"))
    parser.add_argument("--record_dir", "--record-dir")
    for name in _NOT_HERE:
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}")
    own, rest = parser.parse_known_args(list(argv))
    if "--help" in rest or "-h" in rest:
        return run_stage(PruneRun, doc, data, ["--help"])
    if not own.output_dir:
        raise ValueError("--output_dir: name a folder for the results")
    named = [
        word for word in rest if word.startswith(("--resume_from_checkpoint", "--resume-from-checkpoint"))
    ]
    if named:
        raise ValueError(
            f"{named[0]}: each stage goes on from the last checkpoint in its own folder; start "
            "the same command again"
        )
    _refuse(own, "glue" if data is GlueArguments else "squad")
    densities = _densities(own.target_sparsity)
    first_epochs, epochs = "2", 2.0  # SQuAD
    if data is GlueArguments:
        task = find_task(own.task_name or "").folder
        rest += ["--task_name", task]
        first_epochs, epochs = "3", 5.0 if task in LONGER else 3.0
    if own.finetune_num_train_epochs is not None:
        epochs = own.finetune_num_train_epochs
    words = [*PAPER, first_epochs, *rest]
    out = own.output_dir

    def line(more: list[str], folder: str = "") -> list[str]:
        """The options of a stage; its records are in the same folders as its results where --record_dir is
        another place.
        """
        places = ["--output_dir", f"{out}/{folder}".rstrip("/")]
        places += ["--record_dir", f"{own.record_dir}/{folder}".rstrip("/")] if own.record_dir else []
        return [*words, *more, *places]

    def second(density: str) -> list[str]:
        given = ["--eval_checkpoint", f"{out}/{INFO}", "--save_checkpoint", f"{out}/{density}/{MASK}"]
        return line([*given, "--target_sparsity", density], f"{density}/2nd")

    def third(density: str) -> list[str]:
        given = [
            "--mask_checkpoint",
            f"{out}/{density}/{MASK}",
            "--learning_rate",
            str(own.finetune_learning_rate),
        ]
        return line(
            [*given, "--save_pack", f"{out}/{density}/{PACK}", "--num_train_epochs", str(epochs)],
            f"{density}/3rd",
        )

    for density in densities:  # nothing that a later stage will need is found missing after the first
        with contextlib.redirect_stdout(io.StringIO()):  # each stage will say its own
            _check_later(stage_options(doc, data, second(density)), trains=False)
            _check_later(stage_options(doc, data, third(density)), trains=True)
    say("stage 1: diff pruning")
    run_stage(PruneRun, doc, data, line([]))
    if stage_options(doc, data, line([]))[-2].dry_run:
        say(f"then for each of {', '.join(densities)}: projection, and {epochs:g} epochs of what is kept")
        return {}
    found: dict[str, dict[str, Any]] = {}
    for density in densities:
        say(f"stage 2: projection to {density}")
        run_stage(ProjectRun, doc, data, second(density))
        say(f"stage 3: finetuning of the share {density}")
        found[density] = run_stage(FixMaskRun, doc, data, third(density))
    names = find_task(own.task_name).metrics if data is GlueArguments else SquadWork.metrics
    for density, scores in found.items():
        path = f"{out}/{density}/{PACK}"
        if os.path.isfile(path):  # without --do_train there is none
            pack = DiffPack.load(path)
            say(
                f"{density}: {pack.count:,} of {pack.base.total:,} weights, {os.path.getsize(path):,} bytes "
                f"in {path}"
            )
        for split, metrics in scores.items():
            told = [
                f"{name} {WORK[data].scale * value:.2f}"
                for name in names
                for key, value in metrics.items()
                if f"eval_{name}" in key
            ]
            say(f"{density}: {', '.join(told)} on {split}")
    return found


def _check_later(options: Sequence[Any], trains: bool) -> None:
    """Raises: ValueError: a stage that is still to come could not write its files, or has a training of
    other settings there.
    """
    projection, fixmask, results, args = options[-4:]
    check_folder("--output_dir", args.output_dir)
    if results.record_dir:
        check_folder("--record_dir", results.record_dir)
    model = {"--model_name_or_path": options[0].model_name_or_path}
    check_written_file("--output_dir", fixmask.save_pack if trains else projection.save_checkpoint, model)
    if trains:
        check_training(args, results.overwrite_output_dir)


def _densities(words: Sequence[str]) -> list[str]:
    """The densities as they were written, each once.

    Raises:
        ValueError: one that is no share of the weights.
    """
    found: dict[float, str] = {}
    for word in words:
        try:
            value = number("share")(word)
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"--target_sparsity {error}") from None
        if value in found:
            say(f"--target_sparsity {word} is {found[value]} once more, and is learnt once")
        found.setdefault(value, word.strip())
    return list(found.values())


def _refuse(own: argparse.Namespace, room: str) -> None:
    """Raises:
    ValueError: options that cannot be, or are not of this program.
    """
    programs = {
        "prune": f"scripts/{room}/run_{room}_diffpruning.py",
        "mag": f"scripts/{room}/run_{room}_mag.py",
    }
    for name, why in _NOT_HERE.items():
        value = getattr(own, name)
        # the published "none"
        if value is not None and not (name == "threshold" and value in ("-1", "-1.0")):
            raise ValueError(f"--{name} {value}: {why.format(**programs)}")


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would end the program."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise ValueError(message)
