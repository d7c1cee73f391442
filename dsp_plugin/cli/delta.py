"""Look into the files of Delta-Tuning.

A delta file holds what the methods of a task (prompt, bias, adapter, lora, diff, dsee) add to one base, and
its task head.

  dsp delta inspect FILE                    what is in it: methods, stages, sizes, template and base"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsp_plugin.delta.summary import DeltaSummary

_SHOWN_ABOVE = ("off", "trains_task_head")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", dest="action", required=True)
    inspect = actions.add_parser("inspect", help="what is in a file")
    inspect.add_argument("file", metavar="FILE")
    inspect.add_argument("--json", action="store_true", help="print it as JSON")


def run(args: argparse.Namespace) -> int:
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
