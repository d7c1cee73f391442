"""What `dsp prune --target-speedup` and `dsp curve` have in common: arguments, and the job they open."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import Any

from dsp_plugin.options.numbers import number

UNITS = ("both", "heads", "neurons")
COSTS = ("latency", "macs", "parameters", "bytes")
CLOCKS = ("wall", "processor")
SCORES = ("fisher", "importance", "magnitude", "random")


def add_speed_arguments(parser: argparse._ActionsContainer) -> None:
    """Add the arguments that say what is measured and which units may go."""
    parser.add_argument(
        "--calibration",
        metavar="DATA",
        help="what units are scored on; nothing is trained. For a folder: the folder of a GLUE task's "
        "official files, called as the task, or of SQuAD's or text, or a file; its training set is read. "
        "For a checkpoint: binarised data",
    )
    parser.add_argument(
        "--score",
        metavar="DATA",
        help="score the model before and after on this: the development sets there; of checkpoints the valid "
        "set by BLEU",
    )
    parser.add_argument("--task", metavar="NAME", help="the GLUE task, where the folder is called otherwise")
    parser.add_argument(
        "--units",
        choices=UNITS,
        default="both",
        help="what may go: heads, neurons (feed-forward) or both (default: both)",
    )
    parser.add_argument(
        "--group",
        type=number("count"),
        default=32,
        metavar="N",
        help="neurons go in groups of so many, side by side: kernels like round sizes (default: 32)",
    )
    parser.add_argument(
        "--uniform",
        action="store_true",
        help="one number of units for all blocks of a stack (encoder, decoder): all that CTranslate2 can use",
    )
    parser.add_argument(
        "--cost",
        choices=COSTS,
        default="latency",
        help="what is to be so many times less: latency (measured here), macs (multiplications), parameters "
        "or bytes (default: latency)",
    )
    parser.add_argument(
        "--shape",
        metavar="BxL",
        help="the work that is timed. Folders: examples x tokens of one forward pass (default: 32x128). "
        "Checkpoints: sentences x tokens x beam of a translation (default: 16x24x5)",
    )
    parser.add_argument(
        "--score-by",
        choices=SCORES,
        default="fisher",
        help="what a unit is worth: fisher (how the loss rises without it), importance (Michel et al.), "
        "magnitude of its weights, or random (default: fisher)",
    )
    parser.add_argument(
        "--examples",
        type=number("count"),
        default=2000,
        metavar="N",
        help="calibration examples to use at most, drawn by --seed (default: 2000)",
    )
    parser.add_argument("--seed", type=number("seed"), default=1, help="of the draws (default: 1)")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where to run (default: cpu)"
    )
    parser.add_argument(
        "--threads", type=number("count"), metavar="N", help="CPU threads (default: as many as torch takes)"
    )
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="wall, or processor: the time that this process spends on the CPU, steadier where others share "
        "the machine; only for --device cpu --threads 1 (default: wall)",
    )
    parser.add_argument(
        "--costs",
        metavar="FOLDER",
        help="where measured costs are kept for another time (default: dsp_plugin/costs in the user's cache)",
    )


def check_paths(args: argparse.Namespace, out: str | None) -> None:
    """Refuse what would lose a file or is not there, before anything slow is imported.

    Args:
        out: the model that is to be written; None where none is.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: names the option or the file.
    """
    from dsp_plugin.records.files.whole import check_file, check_folder, check_new_folder

    if not os.path.exists(args.checkpoint):
        raise FileNotFoundError(f"no model at {args.checkpoint}")
    if args.calibration is None:
        raise ValueError("--calibration DATA is missing: units are scored on it")
    for option in ("calibration", "score"):
        path = getattr(args, option)
        if path is not None and not os.path.exists(path):
            raise FileNotFoundError(f"--{option} {path}: there is no such folder or file")
    if out is not None:
        if os.path.exists(out) and os.path.samefile(args.checkpoint, out):
            raise ValueError(f"--out {out} is the model itself, which would be lost: name another place")
        try:
            check_new_folder(out, None) if os.path.isdir(args.checkpoint) else check_file(out)
        except OSError as error:
            raise ValueError(f"--out: {error}") from None
    if args.costs is not None:
        check_folder("--costs", args.costs)


def open_job(args: argparse.Namespace) -> Any:
    """Check the wish, load the model, read its data; return the `Job`.

    Raises:
        OptionError, ValueError, OSError: what cannot be; before long work.
    """
    from dsp_plugin.choosing.wish import Wish, parse_shape

    wish = Wish(
        args.units,
        args.group,
        args.uniform,
        args.cost,
        None if args.shape is None else parse_shape(args.shape),
        args.score_by,
        args.clock,
        args.examples,
        args.seed,
    )
    wish.check()
    if args.clock == "processor" and (args.device != "cpu" or args.threads != 1):
        raise ValueError("--clock processor needs --device cpu --threads 1")
    import torch

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU here")
    logging.getLogger("fairseq").setLevel(logging.WARNING)  # it tells of what it could not import
    if not os.path.isdir(args.checkpoint):
        from dsp_plugin.mt.programs.pruning.job import CheckpointJob

        if args.task is not None:
            raise ValueError("--task names tasks of classifiers, and a checkpoint translates")
        return CheckpointJob(args.checkpoint, wish, args.calibration, args.score, args.device)
    from dsp_plugin.hf.programs.pruning.job import FolderJob  # isort: skip  (before transformers)
    from transformers.utils.logging import disable_progress_bar

    from dsp_plugin.hf.programs.pruning.tasks import open_model

    disable_progress_bar()
    opened = open_model(args.checkpoint, wish, args.calibration, args.score, args.task)
    return FolderJob(opened, wish, args.device, sys.stderr.isatty())
