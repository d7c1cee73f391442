"""What `dsp prune` and `dsp export` have in common: their arguments, and the checks before any work."""

from __future__ import annotations

import argparse
import logging
import os

from dsp_plugin.options.numbers import number
from dsp_plugin.records.files.whole import check_output


def add_surgery_arguments(
    parser: argparse.ArgumentParser, folders: bool = False
) -> argparse._ActionsContainer:
    """Add the source, --out, and which heads to keep; with `folders`, for Transformers folders, too.

    Returns:
        the group of options of which one is given.
    """
    source, out = "a fairseq checkpoint (.pt)", "the checkpoint to write; CHECKPOINT stays as it is"
    if folders:
        source += ", or a Transformers folder"
        out = "the file (fairseq) or folder (all other formats) to write; CHECKPOINT stays as it is"
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=source)
    parser.add_argument("--out", required=True, metavar="PATH" if folders else "FILE", help=out)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--num-of-heads",
        type=number("amount"),
        metavar="K",
        help="keep the K best heads (default: as many as the checkpoint says)",
    )
    which.add_argument(
        "--heads-per-kind",
        metavar="KIND=K,...",
        help="keep the best of each kind (encoder-self=4,...), groups of neurons, too, where there are any",
    )
    which.add_argument(
        "--mask",
        metavar="FILE.json",
        help="keep these: the mask.json of generate_dsp.py, or a list of true and false",
    )
    return which


def start(args: argparse.Namespace) -> None:
    """Refuse what would lose a file or fail only at the end, before anything slow is imported.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: the checkpoint is a folder; --out is the checkpoint itself, or no file can be written
            there.
    """
    logging.getLogger("fairseq").setLevel(logging.WARNING)  # it tells of what it could not import
    if os.path.isdir(args.checkpoint):
        raise ValueError(f"{args.checkpoint} is a folder: name a checkpoint (.pt) in it")
    if not os.path.isfile(args.checkpoint):
        raise FileNotFoundError(f"no checkpoint at {args.checkpoint}")
    if os.path.exists(args.out) and os.path.samefile(args.checkpoint, args.out):
        raise ValueError(f"--out {args.out} is the checkpoint itself, which would be lost: name another file")
    check_output("--out", args.out, {"--mask": args.mask})


def megabytes(path: str) -> str:
    return f"{os.path.getsize(path) / 1e6:.1f} MB"
