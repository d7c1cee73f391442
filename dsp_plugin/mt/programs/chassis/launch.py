"""Lead from the command lines users know to fairseq's own programs with this plugin in them."""

import argparse
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Optional

import torch

from ....options.errors import OptionError, dashed
from ....records.files.whole import check_folder
from ...checkpoints.checkpoint import load_checkpoint, model_options
from ...heads.checkpoint_heads import SCORES
from ...patches import give_back_folders
from ...training.option_checks import check_options
from ...training.same_command import same_file
from .argv import asks_for_help, given, value
from .refusals import raise_errors
from .training_results import summarise_training

PLUGIN_DIR = str(Path(os.path.abspath(__file__)).parents[3])

_ASKS_FOR_GATES = ("num_of_heads", "heads_per_kind", "l0_penalty", "cost_share")
_RESETS = ("reset_optimizer", "reset_lr_scheduler", "reset_dataloader", "reset_meters")


def method_options(argv: Sequence[str], method: str = "dsp") -> argparse.Namespace:
    """Read the command line of `run_dsp.py`, or of another method's program, as options of `fairseq-train`.

    The task is the method's, `--arch transformer_X` its `dsp_transformer_X`, and the stock criterion and
    optimizer are the plugin's that can carry head gates.

    A run that already has a checkpoint of its own in `--save-dir` goes on from that one: `--restore-file` and
    the resets were meant for its start. Errors as `training_options`.
    """
    parsed = training_options(argv, partial(method_parser, method))
    if "--restore-file" in given(argv):
        start, last = parsed.restore_file, os.path.join(parsed.save_dir, "checkpoint_last.pt")
        if _is_own(last, parsed, method):
            print(f"| going on from {last}; --restore-file {start} was this run's start", flush=True)
            vars(parsed).update({name: False for name in _RESETS}, restore_file=last)
        parsed.restore_file = _absolute(parsed.restore_file)
    elif method == "voita" and _trains_gates_of_nothing(parsed):
        print("| nothing to start from: model and gates are trained together (--joint-pruning)", flush=True)
        parsed.joint_pruning = True
    return parsed


def method_parser(method: str) -> argparse.ArgumentParser:
    """Make fairseq-train's parser for a method's program, which takes stock names as its own."""
    stock = "label_smoothed_cross_entropy"
    meant = {
        "arch": partial(arch_of, method=method),
        "criterion": partial(renamed, {stock: f"{method}_{stock}"}),
        "optimizer": partial(renamed, {"adam": "dsp_adam"}),
    }
    return training_parser(f"{method}_translation", meant)


def renamed(names: Mapping[str, str], name: str) -> str:
    """Return what a name stands for; itself, where it is none of `names`."""
    return names.get(name, name)


def _trains_gates_of_nothing(parsed: argparse.Namespace) -> bool:
    """Whether the gates of an L0 penalty would be learned on a model that is not there."""
    wanted = any(getattr(parsed, name, None) is not None for name in _ASKS_FOR_GATES)
    return wanted and not getattr(parsed, "joint_pruning", False) and not parsed.finetune_from_model


def arch_of(name: str, method: str) -> str:
    """Return a method's architecture of the same sizes: `dsp_transformer_X` for any `..._transformer_X`."""
    return f"{method}_" + re.sub(r"^[a-z]+_(?=transformer)", "", name)


def _absolute(path: str) -> str:
    """Return a checkpoint's path as later ones can keep it, from whatever folder the training is resumed."""
    # fairseq's word for the one in --save-dir; a remote store
    if path == "checkpoint_last.pt" or "://" in path:
        return path
    return os.path.abspath(path)


def options_help(method: str = "dsp") -> str:
    """List a method's own options with defaults and meaning; fairseq's --help lists no model's."""
    from fairseq.models import MODEL_DATACLASS_REGISTRY

    from .... import register
    from ...checkpoints.flat_config import FlatTransformerConfig

    register()
    lines = []
    for name, option in MODEL_DATACLASS_REGISTRY[f"{method}_transformer"].__dataclass_fields__.items():
        if name not in FlatTransformerConfig.__dataclass_fields__:
            default = "" if option.default in (None, False) else f" (default {option.default})"
            lines.append(f"  {dashed(name)}{default}\n      {option.metadata['help']}")
    return "Options of this method:\n" + "\n".join(lines)


def hush_hosts() -> None:
    """Hold back warnings about fairseq's own use of Hydra and of pinned memory: no user can act on them."""
    for module in (r"hydra\..*", r"torch\.utils\.data.*", r"fairseq\..*"):
        warnings.filterwarnings("ignore", category=Warning, module=module)
    warnings.filterwarnings("ignore", message=r"(?s).*(ConfigStore schema|strict flag in the compose).*")


def _is_own(last: str, parsed: argparse.Namespace, method: str) -> bool:
    """Whether the last checkpoint of the save folder is of the run that these options ask for.

    The folder may also hold the model that the run starts from: unpruned, or pruned in another way.
    """
    if not os.path.isfile(last):
        return False
    state, start = load_checkpoint(last), parsed.restore_file
    if any(getattr(parsed, name, None) is not None for name in _ASKS_FOR_GATES):
        options = model_options(state)
        same_method = str(options.get("_name", "")).startswith(f"{method}_")
        joint = getattr(parsed, "joint_pruning", False)  # of a model's options only given ones are there
        return SCORES in state["model"] and same_method and options.get("joint_pruning") == joint
    # no scores to know it by: the file it says it started from, or went on from
    restored = ((state.get("cfg") or {}).get("checkpoint") or {}).get("restore_file")
    return not same_file(start, last) and (
        restored == start or same_file(restored, start) or same_file(restored, last)
    )


def train(
    options: argparse.Namespace,
    method: Optional[str] = None,
    name: Optional[str] = None,
    extra: Optional[Callable[[], dict]] = None,
) -> None:
    """Run `fairseq-train` in this process, then sum up.

    Args:
        options: see `training_options`.
        method, name, extra: as `summarise_training` takes them.
    """
    from fairseq_cli import train as fairseq_train

    hush_hosts()
    started = time.time()
    try:
        run_fairseq(fairseq_train.main, options)
        if int(os.environ.get("RANK", 0)) == 0:
            summarise_training(options.save_dir, time.time() - started, method, name, extra)
    finally:
        give_back_folders()


def training_parser(
    task: str, meant: Mapping[str, Callable[[str], str]], **defaults: Any
) -> argparse.ArgumentParser:
    """Make fairseq-train's parser for a program of ours.

    Args:
        task, defaults: what holds where the command line names none.
        meant: option -> how the name that is given there becomes the one that is meant.
    """
    from fairseq import options

    parser = options.get_training_parser(task)
    parser.set_defaults(user_dir=PLUGIN_DIR, **defaults)
    for action in parser._actions:
        action.type = meant.get(action.dest, action.type)
    return parser


def training_options(
    words: Sequence[str], make: Optional[Callable[[], argparse.ArgumentParser]] = None
) -> argparse.Namespace:
    """Read fairseq-train's options.

    Args:
        make: makes the parser; by default fairseq's own.

    Raises:
        ValueError: as `parse_for_fairseq`; no architecture is named, or no size of a batch.
    """
    from fairseq import options

    def parser() -> argparse.ArgumentParser:
        made = (make or options.get_training_parser)()
        named = value(words, "--arch", "-a") or made.get_default("arch")
        if named is None and not asks_for_help(words):
            raise OptionError("arch", "is missing: name the model's, such as transformer_iwslt_de_en")
        return made

    parsed = parse_for_fairseq(parser, words)
    check_folder("--save-dir", parsed.save_dir)
    if parsed.max_tokens is None and parsed.batch_size is None:
        raise OptionError("max_tokens", "or {}: one of them says how large a batch is", "batch_size")
    return parsed


def parse_for_fairseq(
    parser: Callable[[], argparse.ArgumentParser], words: Sequence[str]
) -> argparse.Namespace:
    """Read options by one of fairseq's parsers, and look at each number.

    Args:
        parser: makes it.

    Raises:
        ValueError: naming the option.
    """
    from fairseq import options

    from .... import register

    register()
    folder = value(words, "--user-dir")
    if folder is not None and not os.path.exists(folder):
        raise OptionError("user_dir", f"{folder}: no such folder")
    with _sys_argv(words):
        parsed = options.parse_args_and_arch(parser(), list(words), modify_parser=_prepare)
    check_options(parsed)
    return parsed


def _prepare(parser: argparse.ArgumentParser) -> None:
    """Have errors raised, and give defaults to options that have joined the parser since they were set."""
    raise_errors(parser)
    parser.set_defaults(**parser._defaults)


def with_choice(parsed: argparse.Namespace, part: str, name: str, **values: Any) -> argparse.Namespace:
    """Return a copy of options with another optimizer or the like: what the former alone takes is gone, what
    the new one alone takes is at its default, and what both take stays.

    Args:
        part: a registry of fairseq's, such as `optimizer` or `lr_scheduler`. name: the choice.
        values: changed in the copy, too.
    """
    from fairseq.dataclass.utils import gen_parser_from_dataclass
    from fairseq.registry import REGISTRIES

    def defaults(choice: str) -> dict[str, Any]:
        parser = argparse.ArgumentParser(add_help=False)
        gen_parser_from_dataclass(parser, REGISTRIES[part]["dataclass_registry"][choice]())
        return vars(parser.parse_args([]))

    former, new = defaults(getattr(parsed, part)), defaults(name)
    kept = {key: item for key, item in vars(parsed).items() if key in new or key not in former}
    return argparse.Namespace(**{**new, **kept, part: name, **values})


def run_fairseq(main: Callable[[Any], Any], parsed: argparse.Namespace) -> None:
    """Do what fairseq's own command lines do once they have their options."""
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
    """Let these arguments be the command line for a while: fairseq's parsers look for --user-dir there."""
    saved, sys.argv = sys.argv, [sys.argv[0], *arguments]
    try:
        yield
    finally:
        sys.argv = saved
