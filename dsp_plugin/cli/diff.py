"""Look into diff packs, and bring them into models and out again.

A pack holds what a task changes in one base: a few positions and values, and the task head. MODEL is a
Transformers folder (safetensors weights) or a fairseq checkpoint. Nothing is written where the pack does not
belong to the model, or either is damaged.

  dsp diff inspect PACK                           what is in it, its size, its share of every layer
  dsp diff apply PACK MODEL                       write the task into MODEL itself, an undo record beside it
  dsp diff revert MODEL                           take it out again, bit for bit
  dsp diff revert MODEL --pack PACK --base BASE   the same without the record
  dsp diff merge PACK BASE --out OUT              a model of its own, which needs no pack; BASE stays as it is
  dsp diff compare PACK PACK ...                  how much tasks overlap"""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsp_plugin.diffs.packs.pack import DiffPack


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", dest="action", required=True)
    inspect = actions.add_parser("inspect", help="what is in a pack")
    inspect.add_argument("pack", metavar="PACK")
    inspect.add_argument("--json", action="store_true", help="print it as JSON")
    apply = actions.add_parser("apply", help="write a pack into a model, in place")
    apply.add_argument("pack", metavar="PACK")
    apply.add_argument("model", metavar="MODEL", help="the base, which is changed")
    revert = actions.add_parser("revert", help="take an applied pack out again, bit for bit")
    revert.add_argument(
        "model", metavar="MODEL", help="the model that a pack was applied to, which is changed"
    )
    revert.add_argument(
        "--base", metavar="BASE", help="take the old weights from here, not from the undo record"
    )
    revert.add_argument("--pack", metavar="PACK", help="with --base: the pack that was applied")
    merge = actions.add_parser("merge", help="write a model with a pack in it")
    merge.add_argument("pack", metavar="PACK")
    merge.add_argument("model", metavar="BASE", help="the base, which stays as it is")
    merge.add_argument("--out", required=True, metavar="OUT", help="the folder or checkpoint to write")
    compare = actions.add_parser("compare", help="how much packs of one base overlap")
    compare.add_argument("packs", metavar="PACK", nargs="+")
    compare.add_argument("--json", action="store_true", help="print it as JSON")


def run(args: argparse.Namespace) -> int:
    return {"inspect": inspect, "apply": apply, "revert": revert, "merge": merge, "compare": compare}[
        args.action
    ](args)


def inspect(args: argparse.Namespace) -> int:
    from dsp_plugin.cli.diff_tables import summary_text
    from dsp_plugin.diffs.packs.pack import DiffPack
    from dsp_plugin.diffs.packs.summary import summarise

    summary = summarise(DiffPack.load(args.pack))
    print(json.dumps(summary.to_dict(), indent=2) if args.json else summary_text(args.pack, summary))
    return 0


def apply(args: argparse.Namespace) -> int:
    from dsp_plugin.cli.diff_models import open_model
    from dsp_plugin.diffs.packs.pack import DiffPack
    from dsp_plugin.diffs.packs.undo_file import UndoRecord

    pack, model = DiffPack.load(args.pack), open_model(args.model)
    if model.undo_path.exists():
        raise ValueError(
            f"{args.model} has a diff applied already ({model.undo_path} is there): dsp diff revert it first"
        )
    state = model.state()
    model_config = pack.config.get("model_config") or {}
    config = model.configured(model_config) if model_config else None
    undo = pack.apply(state)
    record = UndoRecord.of(undo, pack.base, model.config_text() if model_config else None)
    model.store(state, {*undo.changes, *undo.task_head}, config, record)
    print(f"applied: {_changes_words(pack)}")
    print(f"take it out again with: dsp diff revert {args.model}")
    return 0


def revert(args: argparse.Namespace) -> int:
    from dsp_plugin.artefacts.content import check_config_before
    from dsp_plugin.cli.diff_models import open_model
    from dsp_plugin.diffs.packs.pack import DiffPack
    from dsp_plugin.diffs.packs.undo_file import UndoRecord

    if bool(args.base) != bool(args.pack):
        raise ValueError("--base and --pack are given together, or neither: then the undo record is used")
    model = open_model(args.model)
    state = model.state()
    if args.base:
        pack, base = DiffPack.load(args.pack), open_model(args.base)
        text = base.config_text() if pack.config.get("model_config") else None
        record = UndoRecord.from_base(pack, base.state(), state, text)
        if unknown := [name for name in pack.task_head if name not in record.task_head]:
            print(f"{args.base} has no task head: that of {args.model} stays as it is ({', '.join(unknown)})")
    else:
        try:
            record = UndoRecord.load(model.undo_path)
            if record.config is not None:
                check_config_before(record.config, model.config_text())
        except (FileNotFoundError, ValueError) as error:
            advice = "dsp diff revert --base BASE --pack PACK needs no record"
            raise ValueError(f"{error}; {advice}") from error
    touched = record.restore(state)
    model.store(state, touched, record.config, None)
    print(f"reverted: {args.model} is its base again, SHA-256 {record.base.hash}")
    return 0


def merge(args: argparse.Namespace) -> int:
    from dsp_plugin.cli.diff_models import open_model
    from dsp_plugin.diffs.packs.model_weights import check_copy
    from dsp_plugin.diffs.packs.pack import DiffPack
    from dsp_plugin.records.files.whole import check_not_read, check_output

    check_not_read("--out", args.out, {"the pack": args.pack})
    folder = os.path.isdir(args.model)
    if os.path.exists(args.out) and os.path.exists(args.model):
        if os.path.samefile(args.model, args.out):
            raise ValueError(f"--out {args.out} is the base itself: name another one, or use dsp diff apply")
        if folder != os.path.isdir(args.out):
            kind = "folder" if folder else "file"
            raise ValueError(f"--out {args.out} must be a {kind}, as {args.model} is")
    if folder:
        check_copy("--out", args.out)
    else:
        check_output("--out", args.out)
    pack, model = DiffPack.load(args.pack), open_model(args.model)
    model.copy_to(args.out, pack.merge(model.state()), pack.config.get("model_config"))
    print(f"merged: {_changes_words(pack)}")
    print(f"written: {args.out}")
    return 0


def compare(args: argparse.Namespace) -> int:
    from dsp_plugin.cli.diff_tables import overlap_dict, overlap_text
    from dsp_plugin.diffs.packs.arithmetic import check_same_base, overlap
    from dsp_plugin.diffs.packs.pack import DiffPack

    if len(args.packs) < 2:
        raise ValueError("compare takes two packs or more")
    packs = [DiffPack.load(path) for path in args.packs]
    check_same_base(packs, args.packs)
    pairs = [(a, b) for a in range(len(packs)) for b in range(a + 1, len(packs))]
    found = {(args.packs[a], args.packs[b]): overlap(packs[a], packs[b]) for a, b in pairs}
    print(json.dumps(overlap_dict(found), indent=2) if args.json else overlap_text(found))
    return 0


def _changes_words(pack: DiffPack) -> str:
    task_head = f" and the task head ({', '.join(pack.task_head)})" if pack.task_head else ""
    return f"{pack.count:,} of {pack.base.total:,} weights ({pack.density:.3%}){task_head}"
