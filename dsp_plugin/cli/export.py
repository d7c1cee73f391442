"""Write a checkpoint that loads without this plugin.

--format fairseq: for stock fairseq. The model is its `transformer` with every head in its place; what belonged to
the heads that are not kept is zero, so that the file is not smaller and no faster than the unpruned one (`dsp prune`
is for that). It holds plain values only, so that it loads where torch (2.6 and later) refuses stock fairseq's own
checkpoints. A checkpoint without head scores, pruned or not, keeps the heads it has."""

from __future__ import annotations

import argparse

from dsp_plugin.cli.surgery_arguments import add_surgery_arguments, megabytes, start


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_surgery_arguments(parser)
    parser.add_argument("--format", choices=["fairseq"], default="fairseq", help="for which program (default: fairseq)")


def run(args: argparse.Namespace) -> int:
    start(args)
    from dsp_plugin.mt.checkpoints import load_checkpoint, save_checkpoint
    from dsp_plugin.mt.export import export_fairseq
    from dsp_plugin.mt.pruning import prepare
    from dsp_plugin.reports.head_pictures import head_map_text
    from dsp_plugin.surgery import read_mask

    state = load_checkpoint(args.checkpoint)
    mask = read_mask(args.mask, prepare(state).head_map) if args.mask else None
    exported = export_fairseq(state, args.num_of_heads, mask)
    save_checkpoint(exported.state, args.out)
    print(head_map_text(exported.head_map.to_dict(), exported.keep.tolist()))
    print(f"parameters: {exported.parameters_after:,}, those of the other heads zero")
    print(f"written: {args.out} ({megabytes(args.out)}); translate with: fairseq-generate DATA --path {args.out}")
    return 0
