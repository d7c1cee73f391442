"""Translate and score with fairseq's own generation program, keeping what a record needs."""

import argparse
import ast
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Optional, TextIO

from ...options.errors import OptionError
from ...records.files.whole import check_folder, replacing
from ...records.record import Record
from ..checkpoints.checkpoint import load_checkpoint, model_options
from ..delta.files import read_file as read_delta
from ..diffs.base import read_pack
from ..dsee.files import read_file
from ..heads.checkpoint_heads import heads_of_checkpoint
from ..patches import collected_hypotheses
from ..training.option_checks import check_options
from .chassis.argv import OwnOptions, words_of
from .chassis.launch import PLUGIN_DIR, hush_hosts, parse_for_fairseq
from .generation_results import Beside, Generation, keep_results

# what can be put into the model of --path -> the task that does it
_TASKS = {
    "diff_pack": "diff_translation",
    "dsee_checkpoint": "dsee_translation",
    "delta": "delta_translation",
}


def own_options() -> OwnOptions:
    """Return a parser of the options that `generate_dsp.py` and its like add to fairseq's, or read there."""
    parser = OwnOptions("--user-dir", "--task", "--diff-pack", "--dsee-checkpoint", "--delta")
    parser.add_argument("--num-of-heads", type=int, help="K to deploy, instead of the checkpoint's own")
    parser.add_argument("--heads-per-kind", help="the same as a number a kind: encoder-self=4,...")
    parser.add_argument(
        "--record-dir", help="folder for results.json, mask.json, the translations and sentences.json"
    )
    parser.add_argument(
        "--record-name", help="name of the setting in the record (default: the checkpoint's folder)"
    )
    parser.add_argument("--method", help="name of the method in the record")
    parser.add_argument(
        "--record-seed",
        type=int,
        help="seed in the record (default: the training's); for heads that another seed has chosen",
    )
    parser.add_argument(
        "--no-detok", action="store_true", help="score the text as it is, not Moses-detokenised"
    )
    return parser


def generate(argv: Sequence[str]) -> Record:
    """Run `fairseq-generate` in this process; print sacreBLEU and the kept heads; write the record.

    Raises:
        ValueError: K outside 0..N, a damaged or hostile checkpoint, checkpoints that do not exist.
    """
    from fairseq import options, utils
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq_cli import generate as fairseq_generate

    hush_hosts()
    own, rest = own_options().split(argv)
    check_options(own)
    beside = [name for name in _TASKS if getattr(own, name)]
    if len(beside) > 1:
        raise OptionError(beside[0], "and {} are both made against a base: give one", beside[1])
    rest += words_of(
        user_dir=own.user_dir or PLUGIN_DIR,
        task=own.task or _task_of(own),
        diff_pack=own.diff_pack,
        dsee_checkpoint=own.dsee_checkpoint,
        delta=own.delta,
    )
    args = parse_for_fairseq(options.get_generation_parser, rest)
    for name, folder in (("--record-dir", own.record_dir), ("--results-path", args.results_path)):
        if folder is not None:
            check_folder(name, folder)
    if not args.path:
        reason = "is missing: name the checkpoint to translate with (several, joined by ':', make an "
        raise OptionError("path", reason + "ensemble)")

    if not 0 <= args.shard_id < args.num_shards:
        reason = f"{args.shard_id}: one of 0..{args.num_shards - 1} of {{}} {args.num_shards} is wanted"
        raise OptionError("shard_id", reason, "num_shards")
    if args.num_shards > 1:  # fairseq's program has these options, but goes by those of distributed training
        args.distributed_world_size, args.distributed_rank = args.num_shards, args.shard_id
    pack = read_pack(own.diff_pack, "--diff-pack") if own.diff_pack else None
    update = read_file(own.dsee_checkpoint) if own.dsee_checkpoint else None
    delta = read_delta(own.delta) if own.delta else None
    paths = _files(args, utils.split_paths(args.path))
    states = [load_checkpoint(path) for path in paths]
    overrides = _overrides(args.model_overrides, states)
    budget = {name: getattr(own, name) for name in ("num_of_heads", "heads_per_kind")}
    for name, value in budget.items():
        if value is not None and overrides.get(name, value) != value:
            reason = f"{value} and {{}} ask for two numbers of heads: leave one out"
            raise OptionError(name, reason, "model_overrides")
    if any(value is not None for value in budget.values()):
        # the K best of all heads, whatever the training's budget was
        budget["min_heads_per_block"] = 0
        args.model_overrides = repr({**overrides, **budget})
    if not overrides:
        for state in states:  # says what is wrong with a checkpoint before any long work
            heads_of_checkpoint(state, own.num_of_heads, own.heads_per_kind)
    cfg = convert_namespace_to_omegaconf(args)

    started = time.time()
    with collected_hypotheses() as ran:

        def label() -> str:
            return ran.coverage(args.gen_subset).label(args.gen_subset)

        with _output(args.results_path, args.gen_subset, label) as out:
            fairseq_generate._main(cfg, out)
    seconds = time.time() - started
    put = Beside(pack, update, delta)
    return keep_results(Generation(own, args, paths, states, overrides, put, ran, cfg, seconds))


def _task_of(own: argparse.Namespace) -> str:
    """Return the task that puts into a model what is named beside it."""
    return next((task for name, task in _TASKS.items() if getattr(own, name)), "dsp_translation")


def _files(args, paths: Sequence[str]) -> list[str]:
    """Return the checkpoints that fairseq reads for these paths.

    Raises:
        ValueError: parts of checkpoints.
    """
    from fairseq.checkpoint_utils import get_maybe_sharded_checkpoint_filename

    if args.checkpoint_shard_count != 1:
        reason = f"{args.checkpoint_shard_count}: only whole checkpoints are translated with (1)"
        raise OptionError("checkpoint_shard_count", reason)
    return [get_maybe_sharded_checkpoint_filename(path, args.checkpoint_suffix, 0, 1) for path in paths]


def _overrides(text: str, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Read --model-overrides as a dictionary.

    Raises:
        ValueError: it is none, or has an option that no checkpoint has: fairseq would leave it out without a
            word.
    """
    try:
        overrides = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        overrides = None
    if not isinstance(overrides, dict) or not all(isinstance(name, str) for name in overrides):
        reason = f"{text}: a Python dictionary is wanted, such as \"{{'num_of_heads': 6}}\""
        raise OptionError("model_overrides", reason)
    known = set()
    for state in states:
        groups = state.get("cfg") or {"model": model_options(state)}
        for group, options in groups.items():
            options = vars(options) if isinstance(options, argparse.Namespace) else options
            known |= {group, *(options if isinstance(options, dict) else ())}
    unknown = sorted(set(overrides) - known)
    if unknown:
        reason = f"{text}: the checkpoint has no option {', '.join(unknown)}"
        raise OptionError("model_overrides", reason)
    return overrides


class _OutputOfPart:
    """Passes fairseq's output on; the line of the score names the part of the set that was translated."""

    def __init__(self, out: TextIO, subset: str, label: Callable[[], str]):
        self.out, self.label = out, label
        self.start = f"Generate {subset} with "

    def write(self, text: str) -> int:
        if text.startswith(self.start):
            text = f"Generate {self.label()} with {text[len(self.start) :]}"
        return self.out.write(text)

    def flush(self) -> None:
        self.out.flush()


@contextmanager
def _output(folder: Optional[str], subset: str, label: Callable[[], str]) -> Iterator[_OutputOfPart]:
    """Open where fairseq's own output goes: standard output, or --results-path's file, whole when it appears.

    Args:
        label: asked at the end for the set's name, which says how much of it there is.
    """
    if folder is None:
        yield _OutputOfPart(sys.stdout, subset, label)
        return
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".generate-") as unfinished:
        path = os.path.join(unfinished, "output.txt")
        with open(path, "w", buffering=1, encoding="utf-8") as file:
            yield _OutputOfPart(file, subset, label)
        with replacing(os.path.join(folder, f"generate-{label()}.txt")) as temporary:
            os.replace(path, temporary)
