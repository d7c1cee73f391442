"""The options of `run_michel.py`: its own, and those of fairseq's that mean something here."""

import argparse
from collections.abc import Sequence

from ...heads.importance import RANKINGS
from ..chassis.argv import OwnOptions, given
from ..chassis.launch import PLUGIN_DIR, parse_for_fairseq

# of fairseq's options, those that mean something here; "arch" is compared with the checkpoint's
_USED = set(
    """
    data source_lang target_lang restore_file path arch batch_size max_tokens post_process seed cpu
    user_dir no_progress_bar log_format
    """.split()
)


def own_options() -> OwnOptions:
    """Return a parser of the options that `run_michel.py` adds to fairseq's."""
    parser = OwnOptions(prog="run_michel.py")
    parser.add_argument(
        "--num-of-heads", type=int, metavar="STEP", help="heads to remove a step (a STEP here, not a budget)"
    )
    parser.flag("--exact-pruning", "work the importance out anew under the current mask before every step")
    parser.add_argument(
        "--budgets",
        type=int,
        nargs="+",
        default=[],
        metavar="K",
        help="numbers of heads the sweep lands on exactly; it stops at the smallest (default: 0)",
    )
    parser.add_argument(
        "--heads-per-kind", help="the end: heads left of each kind, encoder-self=4,decoder-cross=4,..."
    )
    parser.add_argument(
        "--min-heads-per-block", type=int, default=0, help="heads that every attention block keeps"
    )
    parser.add_argument(
        "--neurons",
        type=int,
        metavar="G",
        help="groups of G neurons go, too; --heads-per-kind then says how many of each kind are left",
    )
    parser.add_argument("--rank-by", choices=RANKINGS, default="importance", help="(default: importance)")
    parser.add_argument(
        "--importance-subset", default="train", help="what importance is worked out on (default: train)"
    )
    parser.add_argument(
        "--importance-samples", type=int, metavar="N", help="on N of its sentences (default: all)"
    )
    parser.flag("--batch-importance", "take the absolute value of a batch's gradient, not of every example's")
    parser.flag("--dont-normalize-importance-by-layer", "do not divide by the L2 norm over a block's heads")
    parser.flag("--dont-normalize-global-importance", "do not scale to 0..1 over all heads")
    parser.add_argument(
        "--eval-subset", nargs="+", default=["valid"], help="what to score at every step (default: valid)"
    )
    parser.flag("--no-scores", "work out masks only")
    parser.flag("--score-only-budgets", "score only the full model and the budgets")
    parser.flag("--no-detok", "score the text as it is, not Moses-detokenised")
    parser.add_argument(
        "--save-dir", help="(default: michel_results/<the checkpoint's folder>-<how heads are ranked>)"
    )
    parser.add_argument(
        "--record-name", help="name of the setting in results.json (default: the checkpoint's folder)"
    )
    parser.add_argument(
        "--method", help="name of the method in results.json (default: michel, or how heads are ranked)"
    )
    parser.flag("--traceback", "show all that led to an error")
    return parser


def fairseq_options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Read fairseq's options of training and generation, and name those given that mean nothing here."""
    from fairseq import options

    def make() -> argparse.ArgumentParser:
        parser = options.get_parser("Michel", "translation")
        options.add_dataset_args(parser)
        options.add_distributed_training_args(parser, default_world_size=1)
        options.add_model_args(parser)
        options.add_optimization_args(parser)
        options.add_checkpoint_args(parser)
        groups.append(options.add_generation_args(parser))
        parser.set_defaults(arch="transformer", user_dir=PLUGIN_DIR)
        parsers.append(parser)
        return parser

    parsers: list[argparse.ArgumentParser] = []
    groups: list = []
    args = parse_for_fairseq(make, argv)
    (parser,), (generation,) = parsers, groups
    args.search = {a.dest: getattr(args, a.dest) for a in generation._group_actions if hasattr(args, a.dest)}
    # common to all evaluation
    for name in ("path", "post_process", "quiet", "model_overrides", "results_path"):
        args.search.pop(name, None)
    known = {
        word: parser._option_string_actions[word].dest
        for word in given(argv)
        if word in parser._option_string_actions
    }
    return args, [word for word, dest in known.items() if dest not in _USED and dest not in args.search]
