"""The three stages of diff pruning on fairseq in one command: fairseq-train's options, and a few more."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence

from ...diffs import DiffPack
from ...diffs.training.groups import method_name
from ...options.errors import OptionError
from ...records.files.whole import check_folder
from ..diffs.base import read_base, starts_elsewhere
from ..diffs.optimizers import grouping_of
from ..diffs.packs import Projection
from .argv import OwnOptions, words_of
from .diff_stages import Share, Training, say, unprojected_figures, validation_of
from .dry_run import dry_run
from .launch import PLUGIN_DIR, arch_of, training_options, with_choice

MASK, PACK = "mask.diff.safetensors", "task.diff.safetensors"  # of stages 2 and 3, in SAVE_DIR/DENSITY
_OURS = {
    "optimizer": "adam or diff_adam",
    "mask_pack": "stage 2 writes it",
    "diff_pack": "it is for translating",
}


def _number(text: str) -> float:
    """Read a number; of what is none, the one that is refused by the option's name."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def own_options() -> OwnOptions:
    """Return a parser of the options `run_diff.py` adds to fairseq-train's, or has a say in."""
    fairseqs = "optimizer user-dir task mask-pack diff-pack restore-file finetune-from-model clip-norm"
    fairseqs += " lr-scheduler max-update"
    parser = OwnOptions("--base-checkpoint", "--record-name", *(f"--{name}" for name in fairseqs.split()))
    parser.add_argument("--arch", "-a")
    parser.add_argument("--save-dir", default="checkpoints")
    parser.add_argument("--target-sparsity", nargs="+", default=["0.005"])
    parser.add_argument("--per-layer-projection", action="store_true")
    parser.add_argument("--sampled-diff", action="store_true")
    parser.add_argument("--value-dtype", choices=["float16", "bfloat16", "float32"], default="float16")
    parser.add_argument("--finetune-lr", type=_number)
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
    own, rest = own_options().split(argv)
    _check(own)
    projections = _projections(own)
    base = read_base(own.base_checkpoint)
    name = own.record_name or os.path.basename(os.path.abspath(own.save_dir))
    first = Training(_options_of_stage1(own, rest))
    shares = [_share(own, text, projection, first) for text, projection in projections.items()]
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


def _check(own: argparse.Namespace) -> None:
    """Refuse what no stage can be trained with."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            "run_diff.py starts its own processes, one a GPU: start it without torchrun, or "
            "each stage by fairseq-train"
        )
    for name, why in _OURS.items():
        value = getattr(own, name)
        if value and not (name == "optimizer" and value in ("adam", "diff_adam")):
            raise OptionError(name, f"{value}: {why}")
    for name in ("restore_file", "finetune_from_model"):
        if getattr(own, name):
            raise starts_elsewhere(name)
    if own.task not in (None, "diff_translation"):
        raise OptionError("task", f"{own.task}: diffs are trained by diff_translation")
    for name in ("finetune_lr", "finetune_max_update", "finetune_max_epoch"):
        value = getattr(own, name)
        if value is not None and not 0 < value < math.inf:
            raise OptionError(name, f"must be above 0 and finite, got {value}")
    check_folder("--save-dir", own.save_dir)


def _projections(own: argparse.Namespace) -> dict[str, Projection]:
    """Return the projection of each density, by the name of its folder; each once however it is written.

    Raises:
        ValueError: a density outside (0, 1].
    """
    found: dict[str, Projection] = {}
    there = os.listdir(own.save_dir) if os.path.isdir(own.save_dir) else []
    for text in own.target_sparsity:
        projection = Projection(_number(text), own.per_layer_projection, own.sampled_diff)
        if projection in found.values():
            say(f"--target-sparsity {text} is there twice and trained once")
            continue
        same = (name for name in [text, *there] if name in there and _number(name) == projection.density)
        found[next(same, text)] = projection
    return found


def _options_of_stage1(own: argparse.Namespace, rest: Sequence[str]) -> argparse.Namespace:
    """Read fairseq-train's options of stage 1.

    Where the command line names no schedule, the rate falls linearly to 0 over the updates of a stage, as in
    the paper. By --max-epoch alone their number is not known before the data are read: then the rate is
    constant, and this says so.
    """
    scheduler, total = own.lr_scheduler, None
    if scheduler is None and own.max_update in (None, "0"):
        say(
            "without --max-update the rate does not fall; with it, it falls linearly to 0 "
            "(--lr-scheduler: as you like)"
        )
    elif scheduler is None:
        scheduler, total = "polynomial_decay", own.max_update
    words = words_of(
        user_dir=own.user_dir or PLUGIN_DIR,
        task="diff_translation",
        arch=arch_of(own.arch or "transformer", "diff"),
        base_checkpoint=own.base_checkpoint,
        clip_norm=own.clip_norm or "1.0",  # the paper's
        max_update=own.max_update,
        lr_scheduler=scheduler,
        total_num_update=total,
        optimizer="diff_adam",
        save_dir=os.path.join(own.save_dir, "1st"),
    )
    return training_options([*rest, *words, "--no-epoch-checkpoints"])


def _share(own: argparse.Namespace, text: str, projection: Projection, first: Training) -> Share:
    """Prepare stages 2 and 3 of one density."""
    folder = os.path.join(own.save_dir, text)
    mask, pack = (os.path.join(folder, part) for part in (MASK, PACK))
    changed = {
        "lr": own.finetune_lr and [own.finetune_lr],
        "max_update": own.finetune_max_update,
        "max_epoch": own.finetune_max_epoch,
    }
    options = with_choice(first.options, "optimizer", "fixmask_adam", mask_pack=mask)
    options.save_dir = os.path.join(folder, "3rd")
    vars(options).update({name: value for name, value in changed.items() if value is not None})
    if own.lr_scheduler is None and options.max_update:
        total = str(options.max_update)  # as fairseq's parser leaves it
        options = with_choice(options, "lr_scheduler", "polynomial_decay", total_num_update=total)
    return Share(text, projection, first, Training(options), mask, pack)
