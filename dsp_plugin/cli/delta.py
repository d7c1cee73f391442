"""Look into the files of Delta-Tuning.

A delta file holds what the methods of a task (prompt, bias, adapter, lora, diff, dsee) add to one base, and
its task head. BASE is the checkpoint of fairseq's that a file was made on.

  dsp delta inspect FILE                    what is in it: methods, stages, sizes, template and base
  dsp delta merge FILE BASE --out OUT       a checkpoint that needs no file, BASE stays as it is: biases and
                                            LoRA go into the weights; adapters stay modules beside them, and
                                            the model is then a delta_transformer"""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsp_plugin.delta.summary import DeltaSummary

_SHOWN_ABOVE = ("off", "trains_task_head")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", dest="action", required=True)
    inspect = actions.add_parser("inspect", help="what is in a file")
    inspect.add_argument("file", metavar="FILE")
    inspect.add_argument("--json", action="store_true", help="print it as JSON")
    merge = actions.add_parser("merge", help="write a checkpoint with a file's methods in it")
    merge.add_argument("file", metavar="FILE")
    merge.add_argument("base", metavar="BASE", help="the checkpoint, which stays as it is")
    merge.add_argument("--out", required=True, metavar="OUT", help="the checkpoint to write")


def run(args: argparse.Namespace) -> int:
    return {"inspect": inspect, "merge": merge}[args.action](args)


def merge(args: argparse.Namespace) -> int:
    from dsp_plugin.records.files.whole import check_output

    check_output("--out", args.out, {"the file": args.file, "the base": args.base})
    if os.path.isdir(args.base):
        how = "of a Transformers folder the file is put into the model: dsp_plugin.hf.delta.open_delta"
        raise ValueError(f"{args.base} is a folder, and a checkpoint of fairseq's is merged: {how}")

    from dsp_plugin.mt.checkpoints.checkpoint import save_checkpoint
    from dsp_plugin.mt.delta.files import read_file
    from dsp_plugin.mt.delta.merging import merge_into
    from dsp_plugin.mt.surgery.base_checkpoint import read_base

    stored = read_file(args.file, "the file")
    merged = merge_into(read_base(args.base, "is tuned"), stored)
    save_checkpoint(merged, args.out)
    print(f"merged: {', '.join(stored.parts)}, {stored.count:,} numbers; {merged['cfg']['model']['_name']}")
    print(f"written: {args.out}")
    return 0


def inspect(args: argparse.Namespace) -> int:
    from dsp_plugin.delta.artefact import DeltaFile
    from dsp_plugin.delta.summary import summarise

    summary = summarise(DeltaFile.load(args.file))
    print(json.dumps(summary.to_dict(), indent=2) if args.json else summary_text(args.file, summary))
    return 0


def summary_text(path: str, summary: DeltaSummary) -> str:
    """Lay out the figures of a file."""
    from dsp_plugin.options.terminal import printable

    lines = [
        f"{path}: {summary.file_bytes:,} bytes",
        f"trained: {summary.trained:,} numbers, {summary.share:.3%} of the base's {summary.weights:,} "
        "weights",
    ]
    for method, one in summary.methods.items():
        settings = ", ".join(f"{key} {value}" for key, value in one["settings"].items())
        state = "" if one["on"] else ", off"
        lines.append(
            f"{method}: {one['parameters']:,} numbers, {one['bytes']:,} bytes, stage {one['stage']}{state}"
            f"{f' ({settings})' if settings else ''}"
        )
    lines.append(
        f"task head: {summary.task_head:,} numbers, {summary.task_head_bytes:,} bytes; names and shapes "
        f"{summary.other_bytes:,} bytes"
    )
    if summary.template is not None:
        lines.append(f"template: {summary.template}")
    if summary.mapping is not None:
        lines.append("mapping: " + ", ".join(f"{label} {word}" for label, word in summary.mapping.items()))
    lines.append(f"base: SHA-256 {summary.base_hash}")
    shown = {key: value for key, value in summary.config.items() if key not in _SHOWN_ABOVE}
    lines += [f"{key}: {value}" for key, value in shown.items()]
    return "\n".join(printable(line, keep="") for line in lines)
