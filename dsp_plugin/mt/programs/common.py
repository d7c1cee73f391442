"""The common part of the programs in scripts/mt/: help, and one clear line where input cannot be."""

import argparse
import sys
from collections.abc import Sequence

from .chassis.argv import OwnOptions, asks_for_help
from .chassis.refusals import raise_errors, run_program

# nothing of fairseq is imported up here: a program without arguments answers at once

OWN_HELP = """
Options of this program:
  --tune-updates N
      at the end take the dead heads out of the checkpoint that the training is judged by, into
      SAVE_DIR/checkpoint_pruned.pt, and train that smaller model on for N updates in SAVE_DIR/tuned; without
      a pruning option the unpruned model is trained on alike, the baseline that is tuned as long
  --tune-lr
      highest learning rate of the tuning (default: a third of --lr); it rises for a tenth of N and then falls
      linearly to 0
  --record-name
      name of the setting in results.json (default: the name of --save-dir)
  --method
      name of the method in results.json (default: by the options)
  --dry-run
      say what would train, for how long and how many bytes, after a few real updates in memory; write nothing
  --traceback
      show all that led to an error"""


def own_options() -> OwnOptions:
    """Return a parser of the options that a training program adds to fairseq-train's."""
    parser = OwnOptions("--record-name", "--method")
    for name in ("--tune-updates", "--tune-lr"):
        parser.add_argument(name, "--" + name[2:].replace("-", "_"))
    parser.flag("--dry-run", "say what would train; write nothing")
    return parser


def training_program(doc: str, method: str, argv: Sequence[str]) -> None:
    """Train as `fairseq-train` does, with a method's defaults (see `launch.method_options`).

    Args:
        doc: the program's own help.
        method: prefix of the method's task, model and criterion.
        argv: the command line, the method's own changes to it made.
    """
    if not argv:
        sys.exit(doc + "\nGive the prepared data folder and fairseq-train's options; --help lists them all.")
    import fairseq_cli.train  # noqa: F401  (first, so that it sets logging up as it wants it)

    from .chassis.dry_run import dry_run
    from .chassis.launch import method_options, options_help, train
    from .chassis.stages import say
    from .heads.tuning import Tuning, schedule_of

    if asks_for_help(argv):
        print(doc + "\n" + options_help(method) + OWN_HELP + "\n\nfairseq-train's options:")

    def main(argv: list[str]) -> None:
        own, rest = own_options().split(argv)
        options = method_options(rest, method)
        schedule = schedule_of(own, options, rest)
        tuning = None if schedule is None else Tuning(options, schedule, method)
        if tuning is not None:
            tuning.check()
        if own.dry_run:
            dry_run(options)
            if schedule is not None:
                say(f"dry run: then the dead heads, if any, are removed, and tuning: {schedule}")
            return
        train(options, own.method, own.record_name)
        if tuning is not None:
            tuning.run()

    run_program(main, argv)


def generation_program(doc: str, argv: Sequence[str]) -> None:
    """Translate and score as `generate.generate` does."""
    if not argv:
        sys.exit(
            doc + "\nGive the prepared data folder and --path; --help lists fairseq-generate's options too."
        )
    from .generate import generate

    if asks_for_help(argv):
        print(doc + "\nfairseq-generate's options:")
    run_program(generate, argv)


def diff_program(doc: str, argv: Sequence[str]) -> None:
    """Run the three stages of diff pruning, see `diff.run_diff`."""
    if not argv:
        sys.exit(doc + "\nGive the prepared data folder, --base-checkpoint and fairseq-train's options.")
    if asks_for_help(argv):
        print(doc)
        return
    import fairseq_cli.train  # noqa: F401  (first, so that it sets logging up as it wants it)

    from .diffs.run import run_diff

    run_program(run_diff, argv)


def dsee_program(doc: str, argv: Sequence[str]) -> None:
    """Run the three stages of DSEE, see `dsee.run_dsee`."""
    if not argv:
        sys.exit(doc + "\nGive the prepared data folder, --base-checkpoint and fairseq-train's options.")
    if asks_for_help(argv):
        print(doc)
        return
    import fairseq_cli.train  # noqa: F401  (first, so that it sets logging up as it wants it)

    from .dsee.run import run_dsee

    run_program(run_dsee, argv)


def delta_program(doc: str, argv: Sequence[str]) -> None:
    """Run the stages of Delta-Tuning, see `delta.run_delta`."""
    if not argv:
        sys.exit(doc + "\nGive the prepared data folder, --base-checkpoint and --delta-methods.")
    if asks_for_help(argv):
        print(doc)
        return
    import fairseq_cli.train  # noqa: F401  (first, so that it sets logging up as it wants it)

    from .delta.run import run_delta

    run_program(run_delta, argv)


def pack_program(doc: str, argv: Sequence[str]) -> None:
    """Write a pack out of a checkpoint, see `packs.write_pack`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--base-checkpoint", required=True, help="the trained model that the diff is against")
    parser.add_argument("--out", required=True, help="the pack to write, a safetensors file")
    parser.add_argument("--target-sparsity", type=float, help="share of the weights to keep, in (0, 1]")
    parser.add_argument("--per-layer-projection", action="store_true", help="each layer keeps the same share")
    parser.add_argument(
        "--fix-layer",
        type=int,
        default=-1,
        metavar="N",
        help="of full finetuning: keep no change of the embeddings and of the N lowest layers (default -1: "
        "any may be kept)",
    )
    parser.add_argument(
        "--sampled-diff",
        action="store_true",
        help="project one sample of the diff, not the deterministic one",
    )
    parser.add_argument("--value-dtype", choices=["float16", "bfloat16", "float32"], default="float16")
    raise_errors(parser)

    def main(argv: list[str]) -> None:
        options = parser.parse_args(argv)

        from ...records.files.whole import check_output
        from ..diffs.base import read_base
        from ..diffs.packs import Projection, write_pack
        from ..training.option_checks import check_options

        check_output(
            "--out",
            options.out,
            {"the first argument": options.checkpoint, "--base-checkpoint": options.base_checkpoint},
        )
        projection = None
        if options.target_sparsity is not None:
            by_layer, sampled = options.per_layer_projection, options.sampled_diff
            projection = Projection(options.target_sparsity, by_layer, sampled)
        check_options(options)
        base = read_base(options.base_checkpoint)
        pack, size = write_pack(
            options.out,
            options.checkpoint,
            base,
            projection,
            options.value_dtype,
            fix_layer=options.fix_layer,
        )
        print(
            f"| {options.out}: {pack.count:,} of {pack.base.total:,} weights changed, {size:,} bytes",
            flush=True,
        )

    run_program(main, argv)
