"""The three stages of diff pruning on fairseq in one command: fairseq-train's options, and a few more."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial

from ....diffs import DiffPack
from ....diffs.training.groups import method_name
from ....options.errors import OptionError, dashed
from ...diffs.base import read_base, starts_elsewhere
from ...diffs.optimizers import grouping_of
from ...diffs.packs import Projection
from ..chassis.argv import OwnOptions, value
from ..chassis.dry_run import dry_run
from ..chassis.launch import arch_of, renamed, training_options, training_parser, with_choice
from ..chassis.stages import Training, falling_rate, number, say, validation_of
from .stages import Share, unprojected_figures

MASK, PACK = "mask.diff.safetensors", "task.diff.safetensors"  # of stages 2 and 3, in SAVE_DIR/DENSITY
_OURS = {
    "optimizer": "adam or diff_adam",
    "mask_pack": "stage 2 writes it",
    "diff_pack": "it is for translating",
}


def own_options() -> OwnOptions:
    """Return a parser of the options `run_diff.py` adds to fairseq-train's."""
    parser = OwnOptions("--record-name")
    parser.add_argument("--target-sparsity", nargs="+", default=["0.005"])
    parser.add_argument("--per-layer-projection", action="store_true")
    parser.add_argument("--sampled-diff", action="store_true")
    parser.add_argument("--value-dtype", choices=["float16", "bfloat16", "float32"], default="float16")
    parser.add_argument("--finetune-lr", type=number)
    parser.add_argument("--finetune-max-update", type=int)
    parser.add_argument("--finetune-max-epoch", type=int)
    parser.flag("--dry-run", "say what would train; write nothing")
    return parser


def run_diff(argv: Sequence[str]) -> dict[str, DiffPack]:
    """Run all stages. One that is done is skipped, one that was stopped goes on.

    Returns:
        Density as it was written -> the task's pack.

    Raises:
        ValueError, OSError: options or files that cannot be, before anything is trained; a save folder of
            other settings.
    """
    own, words = own_options().split(argv)
    _check(own, words)
    options = _training_options(words)
    projections = _projections(own, options.save_dir)
    base = read_base(options.base_checkpoint)
    name = own.record_name or os.path.basename(os.path.abspath(options.save_dir))
    first, shares = _stages(own, words, options, projections)
    for part in (first, *shares):  # all of it now: what stage 3 refuses is refused before stage 1
        part.check()
    if own.dry_run:
        dry_run(first.options)
        say(f"then for each of {', '.join(projections)}: projection, and as long a training of what is kept")
        return {}

    say("stage 1: diff pruning")
    first.run(
        f"{method_name(grouping_of(first.options))}-unprojected",
        name,
        lambda: {"diff": unprojected_figures(first.folder, base)},
    )
    packs, lines = {}, []
    for share in shares:
        say(f"stage 2: projection to {share.text}")
        share.project(base)
        say(f"stage 3: finetuning of the share {share.text}")
        packs[share.text] = share.finetune(base, name, own.value_dtype)
        lines.append(share.line(packs[share.text]))
    say(f"stage 1 alone: {validation_of(first.folder)}")
    for line in lines:
        say(line)
    return packs


def _check(own: argparse.Namespace, words: Sequence[str]) -> None:
    """Refuse what no stage can be trained with; `words` are of fairseq-train's options."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            "run_diff.py starts its own processes, one a GPU: start it without torchrun, or "
            "each stage by fairseq-train"
        )
    for name, why in _OURS.items():
        named = value(words, dashed(name))
        if named and not (name == "optimizer" and named in ("adam", "diff_adam")):
            raise OptionError(name, f"{named}: {why}")
    for name in ("restore_file", "finetune_from_model"):
        if value(words, dashed(name)):
            raise starts_elsewhere(name)
    task = value(words, "--task")
    if task not in (None, "diff_translation"):
        raise OptionError("task", f"{task}: diffs are trained by diff_translation")
    for name in ("finetune_lr", "finetune_max_update", "finetune_max_epoch"):
        number = getattr(own, name)
        if number is not None and not 0 < number < math.inf:
            raise OptionError(name, f"must be above 0 and finite, got {number}")


def _projections(own: argparse.Namespace, save_dir: str) -> dict[str, Projection]:
    """Return the projection of each density, by the name of its folder; each once however it is written.

    Raises:
        ValueError: a density outside (0, 1].
    """
    found: dict[str, Projection] = {}
    there = os.listdir(save_dir) if os.path.isdir(save_dir) else []
    for text in own.target_sparsity:
        projection = Projection(number(text), own.per_layer_projection, own.sampled_diff)
        if projection in found.values():
            say(f"--target-sparsity {text} is there twice and trained once")
            continue
        same = (name for name in [text, *there] if name in there and number(name) == projection.density)
        found[next(same, text)] = projection
    return found


def _training_options(words: Sequence[str]) -> argparse.Namespace:
    """Read fairseq-train's options as stage 1 takes them.

    Where the command line names no schedule, the rate falls as in the paper: see `falling_rate`.
    """
    defaults = {"arch": "diff_transformer", "optimizer": "diff_adam", "clip_norm": 1.0}  # the paper's norm
    falling = falling_rate(words)
    meant = {"arch": partial(arch_of, method="diff"), "optimizer": partial(renamed, {"adam": "diff_adam"})}
    make = partial(training_parser, "diff_translation", meant, **defaults, **falling)
    parsed = training_options(words, make)
    vars(parsed).update(falling, no_epoch_checkpoints=True)
    return parsed


def _stages(
    own: argparse.Namespace,
    words: Sequence[str],
    options: argparse.Namespace,
    projections: Mapping[str, Projection],
) -> tuple[Training, list[Share]]:
    """Prepare stage 1, and stages 2 and 3 of every density."""
    place = {"save_dir": os.path.join(options.save_dir, "1st")}
    first = Training(argparse.Namespace(**{**vars(options), **place}))
    falls = value(words, "--lr-scheduler") is None
    return first, [
        _share(own, os.path.join(options.save_dir, text), text, projection, first, falls)
        for text, projection in projections.items()
    ]


def _share(
    own: argparse.Namespace, folder: str, text: str, projection: Projection, first: Training, falls: bool
) -> Share:
    """Prepare stages 2 and 3 of one density; `falls`: no schedule was named."""
    mask, pack = (os.path.join(folder, part) for part in (MASK, PACK))
    changed = {
        "lr": own.finetune_lr and [own.finetune_lr],
        "max_update": own.finetune_max_update,
        "max_epoch": own.finetune_max_epoch,
    }
    options = with_choice(first.options, "optimizer", "fixmask_adam", mask_pack=mask)
    options.save_dir = os.path.join(folder, "3rd")
    vars(options).update({name: value for name, value in changed.items() if value is not None})
    if falls and options.max_update:
        total = str(options.max_update)  # as fairseq's parser leaves it
        options = with_choice(options, "lr_scheduler", "polynomial_decay", total_num_update=total)
    return Share(text, projection, first, Training(options), mask, pack)
