"""From a command line to dataclasses, and from an error a user can mend to one line."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser, Trainer, TrainingArguments

from ....options.errors import OptionError, as_typed, underscored
from ....options.faults import one_line
from .legacy_flags import modern_arguments
from .option_checks import check_file, check_numbers

TRACEBACK = "--traceback"
HELP_ALL = ("--help-all", "--help_all")  # --help has been answered before the long imports, and in short
# Faults of the machine that a training meets, and that its traceback says nothing about.
_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


# Within `Trainer.train`, but before it trains.
_PREPARATIONS = {
    method.__code__
    for method in (Trainer.create_optimizer_and_scheduler, Trainer.create_optimizer, Trainer.create_scheduler)
}


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The description as it is written, each option with its default."""


def parse(doc: str, groups: Sequence[type], argv: Sequence[str]) -> tuple[Any, ...]:
    """Make one instance of each group from a command line, from a .json or from a .yaml file.

    Flags of older Transformers are taken, too (`legacy_flags`); what is ignored of them is printed. Every
    number is looked at by what it means (`option_checks`). `--traceback` is every program's, see `run`.

    Args:
        doc: the program's own help, shown above the options.
        groups: dataclasses; `TrainingArguments` last, because it has the most options.

    Raises:
        ValueError: an option that is not known, missing or has a wrong value; named.
    """
    argv = ["--help" if word in HELP_ALL else word for word in argv if word != TRACEBACK]
    usage = "%(prog)s --NAME VALUE ..."
    parser = _Parser(groups, description=doc, usage=usage, formatter_class=_Help, allow_abbrev=False)
    parser.add_argument(
        TRACEBACK,
        action="store_true",
        default=argparse.SUPPRESS,
        help="show where in the program an error was met",
    )
    if len(argv) == 1 and argv[0].endswith((".json", ".yaml", ".yml")):
        path = Path(argv[0])
        if not path.is_file():
            raise ValueError(f"{path}: there is no such file of options")
        try:
            read = json.loads if path.suffix == ".json" else yaml.safe_load
            values = read(path.read_text("utf-8"))
            if not isinstance(values, dict):
                raise ValueError("names of options with their values belong there")
            if _only_processors(groups):
                values = {"use_cpu": True, **values}
            return parser.parse_dict(values)
        except OSError:
            raise
        except Exception as error:  # its options have no dashes
            raise ValueError(f"{path}: {one_line(error)}") from error
    known = {word[2:].replace("-", "_") for action in parser._actions for word in action.option_strings}
    words, notes = modern_arguments(argv, known)
    for note in notes:
        say(note)
    if _only_processors(groups) and not any(word.startswith(("--use_cpu", "--use-cpu")) for word in words):
        words = [*words, "--use_cpu"]
    try:
        *found, rest = parser.parse_args_into_dataclasses(
            words, return_remaining_strings=True, look_for_args_file=False
        )
    except OptionError:
        raise
    except Exception as error:
        line = one_line(error)
        # argparse and some of Transformers' own errors name their option
        culprit = None if "--" in line else parser.culprit(words)
        if culprit is None:
            raise ValueError(line) from error
        raise OptionError(culprit[0], f"{culprit[1]}: {line}") from error
    if rest:
        raise ValueError(f"unknown: {' '.join(rest)}; --help-all lists all options")
    return tuple(found)


def run(program: Callable[[], Any], argv: Sequence[str] | None = None) -> Any:
    """Call a program; an error ends it with one line, `--traceback` on its command line shows the rest.

    A fault of the program's own in the middle of training keeps its traceback: options and files have been
    checked by then.

    Args:
        argv: its command line, which says how the user spells its options; None for `sys.argv`.

    Raises:
        SystemExit: with that line; of an interrupt with the usual status.
    """
    try:
        return program()
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if TRACEBACK in sys.argv or not _is_users(error):
            raise
        line = one_line(error, as_typed(sys.argv[1:] if argv is None else argv, underscored))
        sys.exit(f"{Path(sys.argv[0]).name}: error: {line}{_hint(error)}")


def _is_users(error: Exception) -> bool:
    """Return whether an error's words explain it: before the first update any, later refusals, full disks."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    codes = {frame.f_code for frame in frames}
    if Trainer.train.__code__ not in codes or codes & _PREPARATIONS:
        return True
    trainer = next(frame.f_locals["self"] for frame in frames if frame.f_code is Trainer.train.__code__)
    if trainer.state.global_step == getattr(trainer, "_initial_global_step", -1):
        return True  # an option or a file that the first step could not use
    if isinstance(error, OSError):
        return error.errno in _MACHINE
    ours = frames[-1].f_globals.get("__name__", "").startswith("dsp_plugin.")
    return isinstance(error, MemoryError) or (isinstance(error, ValueError) and ours)


def _hint(error: Exception) -> str:
    """Say where more is to be had, of an error whose text was not made for a user."""
    return "" if isinstance(error, (OSError, ValueError, ImportError)) else f" ({TRACEBACK} shows where)"


def say(text: str) -> None:
    """Print a line of the program's own among those of the Trainer; of several processes the first does."""
    if os.environ.get("RANK", "0") == "0":
        print(f"| {text}", flush=True)


def _only_processors(groups: Sequence[type]) -> bool:
    """Whether a launcher has started several processes of a training where there is no accelerator.

    Unless it is told to use the CPU, Accelerate then lets each of them believe that it is alone.
    """
    several = int(os.environ.get("WORLD_SIZE", "1") or 1) > 1
    return TrainingArguments in groups and several and not torch.accelerator.is_available()


def _can_be(group: type, values: dict[str, Any]) -> bool:
    try:
        group(**values)
    except Exception:
        return False
    return True


class _Parser(HfArgumentParser):
    """A parser that raises where argparse would exit, and looks at numbers before it makes dataclasses."""

    def error(self, message: str) -> None:
        raise ValueError(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, Any]:
        found, rest = super().parse_known_args(args, namespace)
        check_numbers(self.dataclass_types, vars(found))
        return found, rest

    def culprit(self, words: Sequence[str]) -> tuple[str, Any] | None:
        """Find the option without which the dataclasses can be made, and its value; None without such one."""
        values = vars(super().parse_known_args(list(words))[0])
        for group in self.dataclass_types:
            given = {
                field.name: values[field.name] for field in dataclasses.fields(group) if field.name in values
            }
            if _can_be(group, given):
                continue
            for name, value in given.items():
                if _can_be(group, {other: given[other] for other in given if other != name}):
                    return name, value
        return None

    def parse_dict(self, args: dict[str, Any], allow_extra_keys: bool = False) -> tuple[Any, ...]:
        return super().parse_dict(check_file(self.dataclass_types, args), allow_extra_keys)
