"""Make a trained model smaller and faster, for good: a fairseq checkpoint, or a Transformers folder.

Which units go is said in one of two ways:

  --target-speedup X    ask for a speed. Heads and groups of neurons are scored on --calibration data, what
                        they cost is measured on this machine, and the best choice under the bound is taken
                        out. Nothing is trained; it takes minutes. The outcome is measured beside the unpruned
                        model, the choice corrected where it is more than 5 % off, and what was reached is
                        said.
  --num-of-heads K      or --heads-per-kind, --mask: keep the heads that a training has chosen.

The projections get smaller, and with them the file, the memory and the time. The model that is read stays as
it is. A checkpoint that comes out translates with `fairseq-generate --user-dir dsp_plugin` and trains on with
`fairseq-train ... --finetune-from-model FILE`; a folder is loaded by `dsp_plugin.hf.load_pruned` and by the
programs' --model_name_or_path.

  dsp prune MODEL --target-speedup 1.5 --calibration glue/CoLA --score glue/CoLA --out runs/fast
  dsp prune checkpoint_best.pt --out small.pt
  dsp prune runs/cola --mask runs/cola/mask.json --out runs/small"""

from __future__ import annotations

import argparse
import os

from dsp_plugin.cli.speed_arguments import add_speed_arguments
from dsp_plugin.cli.surgery_arguments import add_surgery_arguments, megabytes, start
from dsp_plugin.options.numbers import number
from dsp_plugin.records.kept_heads import mask_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = add_surgery_arguments(parser, folders=True)
    which.add_argument(
        "--target-speedup",
        type=number("positive"),
        metavar="X",
        help="choose units so that the model is X times as fast (or --cost is X times less), 1 or more",
    )
    add_speed_arguments(parser.add_argument_group("with --target-speedup"))


def run(args: argparse.Namespace) -> int:
    _check_options(args)
    if args.target_speedup is not None:
        from dsp_plugin.cli.speed import prune_to_speed

        return prune_to_speed(args)
    if os.path.isfile(os.path.join(args.checkpoint, "config.json")):
        return _folder_by_heads(args)
    return _checkpoint_by_heads(args)


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options of a speed where none is asked for."""
    if args.target_speedup is None:
        for option in ("calibration", "score", "task", "shape", "costs"):
            if getattr(args, option) is not None:
                raise ValueError(f"--{option} is about a speed: give --target-speedup X, too")


def _folder_by_heads(args: argparse.Namespace) -> int:
    """Take the heads that were not kept out of a Transformers folder."""
    from dsp_plugin.records.files.whole import check_new_folder

    if args.heads_per_kind is not None:
        raise ValueError(
            "--heads-per-kind is for a fairseq checkpoint: give --num-of-heads K or --mask FILE.json"
        )
    if os.path.exists(args.out) and os.path.samefile(args.checkpoint, args.out):
        raise ValueError(f"--out {args.out} is the model itself, which would be lost: name another folder")
    try:
        check_new_folder(args.out, None)
    except OSError as error:
        raise ValueError(f"--out: {error}") from None
    if args.mask is not None and not os.path.isfile(args.mask):
        raise FileNotFoundError(f"--mask {args.mask}: no such file")

    from dsp_plugin.hf.export.exports import load_source, tokenizer_of  # isort: skip  (before transformers)
    from transformers.utils.logging import disable_progress_bar

    from dsp_plugin.hf import prune_heads, record_of, save_pruned, switchboard_of
    from dsp_plugin.hf.folders.model_heads import heads_of
    from dsp_plugin.reports.pictures.heads import head_map_text

    disable_progress_bar()
    model = load_source(args.checkpoint, args.num_of_heads, args.mask)
    if switchboard_of(model) is None:
        pruned = record_of(model) is not None
        state = "has lost its heads already" if pruned else "does not say which heads to keep"
        smaller = os.path.join(args.checkpoint, "pruned")
        there = f" ({smaller} is it without the heads that were not kept)" if os.path.isdir(smaller) else ""
        raise ValueError(f"{args.checkpoint} {state}{there}: give --mask FILE.json, or --target-speedup X")
    shown = heads_of(model)
    removal = prune_heads(model)
    before, after = removal.parameters_before, removal.parameters_after
    save_pruned(model, args.out, tokenizer=tokenizer_of(args.checkpoint))
    print(head_map_text(shown, mask_of(shown)))
    print(f"parameters: {before:,} before, {after:,} after ({after / before - 1:.1%})")
    print(f"written: {args.out}")
    return 0


def _checkpoint_by_heads(args: argparse.Namespace) -> int:
    """Take the heads that were not kept out of a fairseq checkpoint."""
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
