"""From a command line to dataclasses, and from an error a user can mend to one line."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path
from typing import Any, Callable, Sequence, Tuple

from transformers import HfArgumentParser, Trainer

from ...reports.terminal import printable
from ..legacy_flags import modern_arguments


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The description as it is written, each option with its default."""


def parse(doc: str, groups: Sequence[type], argv: Sequence[str]) -> Tuple[Any, ...]:
    """One instance of each group from a command line, from a .json or from a .yaml file.

    Flags of older Transformers are taken, too (`legacy_flags`); what is ignored of them is printed.

    Args:
        doc: the program's own help, shown above the options.
        groups: dataclasses; `TrainingArguments` last, because it has the most options.

    Raises:
        ValueError: an option that is not known, missing or has a wrong value; named.
    """
    parser = _Parser(groups, description=doc, formatter_class=_Help, allow_abbrev=False)
    if len(argv) == 1 and argv[0].endswith((".json", ".yaml", ".yml")):
        path = Path(argv[0])
        if not path.is_file():
            raise ValueError(f"{path}: there is no such file of options")
        read = parser.parse_json_file if path.suffix == ".json" else parser.parse_yaml_file
        try:
            return read(path)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: {error}") from error
    known = {word[2:].replace("-", "_") for action in parser._actions for word in action.option_strings}
    words, notes = modern_arguments(argv, known)
    for note in notes:
        say(note)
    *found, rest = parser.parse_args_into_dataclasses(words, return_remaining_strings=True, look_for_args_file=False)
    if rest:
        raise ValueError(f"unknown: {' '.join(rest)}; --help lists all options")
    return tuple(found)


def run(program: Callable[[], Any]) -> Any:
    """Call a program; an error that the user can mend ends it with its words alone.

    Raises:
        SystemExit: with those words.
    """
    try:
        return program()
    except (OSError, ValueError, ImportError) as error:  # ImportError: a package that an option needs
        if any(frame.f_code is Trainer.train.__code__ for frame, _ in traceback.walk_tb(error.__traceback__)):
            raise  # options and files have been checked by then: this is a fault of the program
        sys.exit(f"{Path(sys.argv[0]).name}: error: {printable(error)}")


def say(text: str) -> None:
    """A line of the program's own among those of the Trainer; of several processes the first says it."""
    if os.environ.get("RANK", "0") == "0":
        print(f"| {text}", flush=True)


class _Parser(HfArgumentParser):
    """Raises where argparse would end the program."""

    def error(self, message: str) -> None:
        raise ValueError(message)
