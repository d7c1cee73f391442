"""Look into DSEE files, and make models of their own of them.

A DSEE file holds what a task adds to one base and takes from it: an update of low rank with a few sparse
entries, which weights are zero, which heads and neurons are left, and the task head. BASE is what it was made
on: a Transformers folder (safetensors weights), or a checkpoint of fairseq's. Nothing is written where the
file does not belong to the base, or either is damaged.

  dsp dsee inspect FILE                     what is in it, its size, what is trained and what is pruned
  dsp dsee merge FILE BASE --out OUT        a model of its own, which needs no file; BASE stays as it is.
                                            Of a checkpoint OUT is a checkpoint
    --masked                                the update is zero, too, where weights were pruned: the outcome
                                            stays as sparse, and is another model than was trained
    --dense                                 of a model that lost units: with zeros in their places, for stock
                                            Transformers"""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsp_plugin.dsee.artefact import DseeFile
    from dsp_plugin.dsee.summary import DseeSummary

_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", dest="action", required=True)
    inspect = actions.add_parser("inspect", help="what is in a file")
    inspect.add_argument("file", metavar="FILE")
    inspect.add_argument("--json", action="store_true", help="print it as JSON")
    merge = actions.add_parser("merge", help="write a model with a file's update and pruning in it")
    merge.add_argument("file", metavar="FILE")
    merge.add_argument("base", metavar="BASE", help="the base, which stays as it is")
    merge.add_argument("--out", required=True, metavar="OUT", help="the folder, or the checkpoint, to write")
    merge.add_argument("--masked", action="store_true", help="zero the update, too, where weights are pruned")
    merge.add_argument("--dense", action="store_true", help="put zeros in the places of removed units")


def run(args: argparse.Namespace) -> int:
    return {"inspect": inspect, "merge": merge}[args.action](args)


def inspect(args: argparse.Namespace) -> int:
    from dsp_plugin.dsee.artefact import DseeFile
    from dsp_plugin.dsee.summary import summarise

    summary = summarise(DseeFile.load(args.file))
    print(json.dumps(summary.to_dict(), indent=2) if args.json else summary_text(args.file, summary))
    return 0


def merge(args: argparse.Namespace) -> int:
    from dsp_plugin.diffs.packs.model_weights import check_copy
    from dsp_plugin.dsee.artefact import DseeFile
    from dsp_plugin.records.files.sealed_folder import check_sealed, holds_model, seal_folder
    from dsp_plugin.records.files.whole import check_not_read, new_folder

    check_not_read("--out", args.out, {"the file": args.file})
    if os.path.isfile(args.base):
        return merge_checkpoint(args, DseeFile.load(args.file))
    if os.path.exists(args.out) and os.path.exists(args.base) and os.path.samefile(args.base, args.out):
        raise ValueError(f"--out {args.out} is the base itself: name another one")
    check_copy("--out", args.out)
    stored = DseeFile.load(args.file)
    if args.dense and stored.kept is None:
        raise ValueError("--dense is for a model that lost units: this one has all of them")
    if not os.path.isdir(args.base):
        raise FileNotFoundError(f"no Transformers folder, and no checkpoint, at {args.base}")
    check_sealed(args.base)

    from transformers import AutoTokenizer

    from dsp_plugin.hf import export_dense, record_of, save_pruned
    from dsp_plugin.hf.dsee import merge_dsee, open_dsee

    model = merge_dsee(open_dsee(stored, args.base), masked=True if args.masked else None)
    named = any(os.path.exists(os.path.join(args.base, name)) for name in _TOKENIZERS)
    tokenizer = AutoTokenizer.from_pretrained(args.base) if named else None
    if record_of(model) is None or args.dense:
        if args.dense:
            export_dense(model, args.out)
        else:
            with new_folder(args.out, None, lambda name: not holds_model(name)) as folder:
                model.save_pretrained(folder)
                if tokenizer is not None:
                    tokenizer.save_pretrained(folder)
                seal_folder(folder)
            tokenizer = None
    else:
        save_pruned(model, args.out, tokenizer=tokenizer)
        tokenizer = None
    if tokenizer is not None:
        with new_folder(args.out, None, lambda name: True) as folder:
            tokenizer.save_pretrained(folder)
        seal_folder(args.out)
    pruned = sum(mask.size - mask.kept for mask in stored.masks.values())
    print(f"merged: {len(stored.updates)} updated matrices, {pruned:,} pruned weights")
    print(f"written: {args.out}")
    return 0


def merge_checkpoint(args: argparse.Namespace, stored: DseeFile) -> int:
    """Write a checkpoint of fairseq's with a file's update and pruning in it."""
    from dsp_plugin.mt.checkpoints.checkpoint import save_checkpoint
    from dsp_plugin.mt.dsee.merging import merge_into
    from dsp_plugin.mt.surgery.base_checkpoint import read_base
    from dsp_plugin.records.files.whole import check_output

    if args.dense:
        how = "merge without it, and then dsp export"
        raise ValueError(f"--dense is for Transformers folders; a checkpoint for stock fairseq: {how}")
    check_output("--out", args.out, {"the file": args.file, "the base": args.base})
    merged = merge_into(read_base(args.base), stored, masked=True if args.masked else None)
    save_checkpoint(merged, args.out)
    pruned = sum(mask.size - mask.kept for mask in stored.masks.values())
    print(f"merged: {len(stored.updates)} updated matrices, {pruned:,} pruned weights")
    print(f"written: {args.out}")
    return 0


def summary_text(path: str, summary: DseeSummary) -> str:
    """Lay out the figures of a file."""
    from dsp_plugin.options.terminal import printable

    lines = [
        f"{path}: {summary.file_bytes:,} bytes",
        f"trained: {summary.trained:,} numbers, {summary.share:.3%} of the base's {summary.weights:,} "
        f"weights: low rank {summary.low_rank:,}, sparse {summary.entries:,} ({summary.nonzeros:,} not zero) "
        f"in {summary.matrices} matrices, task head {summary.task_head:,}",
    ]
    if summary.masked:
        share = summary.pruned / summary.masked
        lines.append(
            f"pruned: {summary.pruned:,} of {summary.masked:,} weights ({share:.2%} of these matrices, "
            f"{summary.pruned / summary.weights:.2%} of the base)"
        )
    if summary.units is not None:
        lines.append("units kept: " + ", ".join(f"{name} {count}" for name, count in summary.units.items()))
    lines.append(
        f"bytes: low rank {summary.low_rank_bytes:,}, sparse {summary.entry_bytes:,}, masks "
        f"{summary.mask_bytes:,}, task head {summary.task_head_bytes:,}, names and shapes "
        f"{summary.other_bytes:,}"
    )
    lines.append(f"base: SHA-256 {summary.base_hash}")
    shown = {key: value for key, value in summary.config.items() if key not in ("parts", "blocks")}
    lines += [printable(f"{key}: {value}", keep="") for key, value in shown.items()]
    return "\n".join(printable(line, keep="") for line in lines)
