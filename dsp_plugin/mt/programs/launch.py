"""From the command lines users know to fairseq's own programs with this plugin in them."""

import argparse
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Optional

import torch
from fairseq.models import ARCH_MODEL_REGISTRY

from ...records.files.whole import check_folder
from ...records.record import Metric, kept_heads, new_record, save_record
from ...reports.pictures.heads import head_map_text
from ..checkpoints.checkpoint import load_checkpoint, model_options
from ..heads.checkpoint_heads import (
    SCORES,
    gates_of_checkpoint,
    head_map_of_state,
    heads_of_checkpoint,
    in_original_numbers,
    model_of_checkpoint,
)
from ..heads.gated_model import GatedTransformerModel
from ..heads.history import read_history
from ..patches import give_back_folders
from ..training.coverage import COVERAGE, Coverage
from ..training.option_checks import check_options
from ..training.same_command import same_file
from .refusals import raise_errors

PLUGIN_DIR = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

_ASKS_FOR_GATES = ("--num-of-heads", "--heads-per-kind", "--l0-penalty")
_RESETS = ("--reset-optimizer", "--reset-lr-scheduler", "--reset-dataloader", "--reset-meters")


def training_arguments(argv: Sequence[str], method: str = "dsp") -> list[str]:
    """Arguments for `fairseq-train` from the command line of `run_dsp.py`, or of another method's program.

    Adds `--user-dir` and `--task`; takes `--arch transformer_X` as `dsp_transformer_X`, and the stock
    criterion and optimizer as the plugin's that can carry head gates. A run that already has a checkpoint of
    its own in `--save-dir` goes on from that one: `--restore-file` and the resets were meant for its start.
    """
    prefix = f"{method}_"
    ours_of = {
        "criterion": {"label_smoothed_cross_entropy": f"{prefix}label_smoothed_cross_entropy"},
        "optimizer": {"adam": "dsp_adam"},
    }
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--arch", "-a")
    parser.add_argument("--task")
    parser.add_argument("--user-dir")
    parser.add_argument("--save-dir", default="checkpoints")
    parser.add_argument("--restore-file")
    for name in ours_of:
        parser.add_argument(f"--{name}")
    raise_errors(parser)
    known, rest = parser.parse_known_args(list(argv))

    arguments = rest + [
        "--user-dir",
        known.user_dir or PLUGIN_DIR,
        "--task",
        known.task or f"{prefix}translation",
    ]
    arguments += ["--save-dir", known.save_dir]
    if known.arch:
        arguments += ["--arch", prefix + re.sub(r"^[a-z]+_(?=transformer)", "", known.arch)]
    for name, ours in ours_of.items():
        value = getattr(known, name)
        if value:
            arguments += [f"--{name}", ours.get(value, value)]

    if known.restore_file:
        last = os.path.join(known.save_dir, "checkpoint_last.pt")
        if _is_own(last, known.restore_file, rest, method):
            print(
                f"| going on from {last}; --restore-file {known.restore_file} was this run's start",
                flush=True,
            )
            arguments = [a for a in arguments if a not in _RESETS]
            known.restore_file = last
        arguments += ["--restore-file", _absolute(known.restore_file)]
    return arguments


def _absolute(path: str) -> str:
    """A checkpoint's path that the checkpoints to come can keep, whatever folder the training is resumed
    from.
    """
    # fairseq's word for the one in --save-dir; a remote store
    if path == "checkpoint_last.pt" or "://" in path:
        return path
    return os.path.abspath(path)


def options_help(method: str = "dsp") -> str:
    """A method's own options with defaults and meaning; fairseq's --help lists its own, but no model's."""
    from fairseq.models import MODEL_DATACLASS_REGISTRY

    from ... import register
    from ..checkpoints.flat_config import FlatTransformerConfig

    register()
    lines = []
    for name, option in MODEL_DATACLASS_REGISTRY[f"{method}_transformer"].__dataclass_fields__.items():
        if name not in FlatTransformerConfig.__dataclass_fields__:
            default = "" if option.default in (None, False) else f" (default {option.default})"
            lines.append(f"  --{name.replace('_', '-')}{default}\n      {option.metadata['help']}")
    return "Options of this method:\n" + "\n".join(lines)


def hush_hosts() -> None:
    """Hold back warnings about fairseq's own use of Hydra and of a GPU's pinned memory: no user can act on
    them.
    """
    for module in (r"hydra\..*", r"torch\.utils\.data.*", r"fairseq\..*"):
        warnings.filterwarnings("ignore", category=Warning, module=module)
    warnings.filterwarnings("ignore", message=r"(?s).*(ConfigStore schema|strict flag in the compose).*")


def _is_own(last: str, start: str, argv: Sequence[str], method: str) -> bool:
    """Whether the last checkpoint of the save folder is of the run that `argv` asks for.

    The folder may also hold the model that the run starts from: unpruned, or pruned in another way.
    """
    if not os.path.isfile(last):
        return False
    state = load_checkpoint(last)
    if any(argument.split("=")[0] in _ASKS_FOR_GATES for argument in argv):
        options = model_options(state)
        same_method = str(options.get("_name", "")).startswith(f"{method}_")
        return (
            SCORES in state["model"]
            and same_method
            and options.get("joint_pruning") == ("--joint-pruning" in argv)
        )
    # no scores to know it by: the file it says it started from, or went on from
    restored = ((state.get("cfg") or {}).get("checkpoint") or {}).get("restore_file")
    return not same_file(start, last) and (
        restored == start or same_file(restored, start) or same_file(restored, last)
    )


def summarise_training(
    save_dir: str,
    seconds: float,
    method: Optional[str] = None,
    name: Optional[str] = None,
    extra: Optional[Callable[[], dict]] = None,
) -> None:
    """Print which heads the finished training keeps and write `results.json` beside its checkpoints.

    Args:
        seconds: what it took, where its checkpoints do not say.
        method: label of the record; by default what the trained model's own options say.
        extra: asked for what else the record is to say.
    """
    path = result_of(save_dir)
    if path is None:
        print(f"| no checkpoint was saved in {save_dir}")
        return
    candidate = os.path.basename(path)
    state = load_checkpoint(path)
    heads = in_original_numbers(state, heads_of_checkpoint(state))
    history = state.get("optimizer_history") or [{}]
    is_best = candidate == "checkpoint_best.pt"
    score = (state.get("extra_state") or {}).get("best" if is_best else "val_loss")
    cfg = state.get("cfg") or {}
    metric_name = (cfg.get("checkpoint") or {}).get("best_checkpoint_metric", "loss")
    common = cfg.get("common") or {}
    # fairseq chooses the best checkpoint by the first of its validation sets
    subset = (cfg.get("dataset") or {}).get("valid_subset", "valid").split(",")[0]
    covered = ((state.get("task_state") or {}).get(COVERAGE) or {}).get(subset)
    subset = Coverage(*covered).label(subset) if covered else subset
    record = new_record(
        "mt-train",
        name or os.path.basename(os.path.abspath(save_dir)),
        method or _label(state),
        device="cpu" if common.get("cpu") else None,
        seed=common.get("seed"),
        heads=kept_heads(heads.head_map.to_dict(), heads.keep.tolist()),
        seconds={"train": _training_time(save_dir) or seconds},
        updates=history[-1].get("num_updates"),
        metrics=[Metric(name=metric_name, value=float(score), subset=subset)] if score is not None else [],
        extra={"checkpoint": candidate, "history": read_history(save_dir), **(extra() if extra else {})},
    )
    written = save_record(record, os.path.join(save_dir, "results.json"))
    print(head_map_text(heads.head_map.to_dict(), heads.keep.tolist()))
    if heads.method is not None:
        model_class, options = model_of_checkpoint(state)
        now = head_map_of_state(state["model"], options)
        for remark in model_class.remarks(options, gates_of_checkpoint(state, now)):
            print(f"| {remark}")
    if score is not None:
        print(f"| {'best ' if is_best else ''}{metric_name} on {subset}: {float(score):.4g}")
    print(f"| {candidate} in {save_dir}; record: {written}", flush=True)


def result_of(save_dir: str) -> Optional[str]:
    """The checkpoint that says what came of a training: the best, or the last where heads close one by one.

    A best checkpoint that the last one knows nothing of is another training's, which was in the folder
    before.
    """
    best, last = (os.path.join(save_dir, f"checkpoint_{name}.pt") for name in ("best", "last"))
    if not os.path.isfile(last):
        return best if os.path.isfile(best) else None
    state = load_checkpoint(last)
    if SCORES in state["model"]:
        model_class, options = model_of_checkpoint(state)
        if model_class.sparsifies(options):
            return last
    if os.path.isfile(best) and _best_score(load_checkpoint(best)) == _best_score(state):
        return best
    return last


def _best_score(state: dict) -> Optional[float]:
    """The best validation of a training, up to a checkpoint of it."""
    return (state.get("extra_state") or {}).get("best")


def _training_time(save_dir: str) -> float:
    """Seconds that a training took, over all its starts; 0 where its last checkpoint is not there."""
    last = os.path.join(save_dir, "checkpoint_last.pt")
    state = load_checkpoint(last) if os.path.isfile(last) else {}
    return float((state.get("extra_state") or {}).get("previous_training_time", 0.0))


def _label(state: dict) -> str:
    """The method that a checkpoint's own options name."""
    options = model_options(state)
    model_class = ARCH_MODEL_REGISTRY.get(options.get("_name") or options.get("arch"))
    if model_class is None or not issubclass(model_class, GatedTransformerModel):
        return "no-pruning"
    return model_class.label(model_class.with_defaults(options))


def option(arguments: Sequence[str], *names: str, default: Optional[str] = None) -> Optional[str]:
    """Value of a command-line option in an argument list (the last one, as argparse takes it)."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(*names, dest="value", default=default)
    raise_errors(parser)
    return parser.parse_known_args(list(arguments))[0].value


def train(
    arguments: list[str],
    method: Optional[str] = None,
    name: Optional[str] = None,
    extra: Optional[Callable[[], dict]] = None,
) -> None:
    """Run `fairseq-train` in this process, then sum up; `method`, `name` and `extra` as
    `summarise_training` takes them.
    """
    from fairseq_cli import train as fairseq_train

    from ... import register

    register()
    hush_hosts()
    started = time.time()
    options = training_options(arguments)
    try:
        run_fairseq(fairseq_train.main, options)
        if int(os.environ.get("RANK", 0)) == 0:
            summarise_training(options.save_dir, time.time() - started, method, name, extra)
    finally:
        give_back_folders()


def training_options(arguments: Sequence[str]) -> argparse.Namespace:
    """fairseq-train's options. Errors as `parse_for_fairseq`."""
    from fairseq import options

    if option(arguments, "--arch", "-a") is None and not {"-h", "--help"} & set(arguments):
        raise ValueError("--arch: name the model's architecture, such as transformer_iwslt_de_en")
    parsed = parse_for_fairseq(options.get_training_parser, arguments)
    check_folder("--save-dir", parsed.save_dir)
    if parsed.max_tokens is None and parsed.batch_size is None:
        raise ValueError("--max-tokens or --batch-size: one of them says how large a batch is")
    return parsed


def parse_for_fairseq(
    parser: Callable[[], argparse.ArgumentParser], words: Sequence[str]
) -> argparse.Namespace:
    """Options by one of fairseq's parsers, each number looked at.

    Args:
        parser: makes it.

    Raises:
        ValueError: naming the option.
    """
    from fairseq import options

    folder = option(words, "--user-dir")
    if folder is not None and not os.path.exists(folder):
        raise ValueError(f"--user-dir {folder}: no such folder")
    with _sys_argv(words):
        parsed = options.parse_args_and_arch(parser(), list(words), modify_parser=raise_errors)
    check_options(parsed)
    return parsed


def run_fairseq(main: Callable[[Any], Any], parsed: argparse.Namespace) -> None:
    """What fairseq's own command lines do once they have their options."""
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.distributed.utils import call_main

    logger = logging.getLogger("fairseq.dataclass.utils")
    logger.disabled = True  # it prints hundreds of overrides above an error
    try:
        cfg = convert_namespace_to_omegaconf(parsed)
    finally:
        logger.disabled = False
    if cfg.common.use_plasma_view:
        from fairseq.data.plasma_utils import PlasmaStore

        server = PlasmaStore(path=cfg.common.plasma_path)  # ends with this function
        logging.getLogger(__name__).info(f"plasma server: process {server.server.pid}")
    with torch.cuda.profiler.profile() if parsed.profile else nullcontext():
        call_main(cfg, main)


@contextmanager
def _sys_argv(arguments: Sequence[str]) -> Iterator[None]:
    """For the time being these arguments are the command line: fairseq's parsers look for --user-dir
    there.
    """
    saved, sys.argv = sys.argv, [sys.argv[0], *arguments]
    try:
        yield
    finally:
        sys.argv = saved
