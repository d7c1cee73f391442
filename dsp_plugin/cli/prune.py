"""Take the heads that were not kept out of a fairseq checkpoint, for good.

The projections get smaller, and with them the file, the memory and the time of a translation; the
translations are those of the masked checkpoint. The new checkpoint holds no head scores and no optimizer
state. It translates with `fairseq-generate --user-dir dsp_plugin`, and trains on with
`fairseq-train ... --finetune-from-model FILE`.
"""

from __future__ import annotations

import argparse

from dsp_plugin.cli.surgery_arguments import add_surgery_arguments, megabytes, start


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_surgery_arguments(parser)


def run(args: argparse.Namespace) -> int:
    start(args)
    from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint, save_checkpoint
    from dsp_plugin.mt.surgery.pruning import choose_heads, prepare, remove_heads
    from dsp_plugin.records.kept_heads import kept_in_words
    from dsp_plugin.reports.pictures.heads import head_map_text
    from dsp_plugin.surgery import read_mask, units_of_mask

    state = load_checkpoint(args.checkpoint)
    source = prepare(state, units_of_mask(args.mask)[0] if args.mask else None)
    mask = read_mask(args.mask, source.head_map) if args.mask else None
    pruned = remove_heads(source, choose_heads(source, args.num_of_heads, mask, args.heads_per_kind))
    save_checkpoint(pruned.state, args.out)

    kept, before, after = int(pruned.keep.sum()), pruned.parameters_before, pruned.parameters_after
    print(head_map_text(pruned.head_map.to_dict(), pruned.keep.tolist()))
    mixed = any(block.neurons for block in pruned.head_map.blocks)
    share = f" ({kept / pruned.head_map.num_heads:.1%})" if pruned.head_map.num_heads and not mixed else ""
    again = (
        f"; {pruned.heads_before} before this removal"
        if pruned.heads_before != pruned.head_map.num_heads
        else ""
    )
    noun, counts = "heads", f"{kept} of {pruned.head_map.num_heads}"
    if mixed:
        noun, counts = "units", kept_in_words(pruned.head_map.to_dict(), pruned.keep.tolist())
    print(f"{noun}: {counts} kept{share}{again}")
    print(f"parameters: {before:,} before, {after:,} after ({after / before - 1:.1%})")
    print(f"file: {megabytes(args.checkpoint)} before, {megabytes(args.out)} after")
    print(f"written: {args.out}")
    return 0
