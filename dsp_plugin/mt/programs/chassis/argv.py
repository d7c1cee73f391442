"""Command lines that fairseq's parsers will read: what has to be known before they do.

fairseq builds a parser from the task, the architecture and the optimizer that a command line names, so a
program of ours looks for its own options first, and hands the other words on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Optional

from .refusals import raise_errors

# nothing of fairseq is imported up here: a program without arguments answers at once


class OwnOptions(argparse.ArgumentParser):
    """A parser for a program's own options, written in full; of others it knows nothing.

    Raises ValueError where argparse would print the usage and end the program.
    """

    def __init__(self, *names: str, **settings: str):
        super().__init__(add_help=False, allow_abbrev=False, **settings)
        for name in names:
            self.add_argument(name)

    def flag(self, name: str, text: str) -> None:
        """Add a switch, spelled with hyphens or underscores."""
        self.add_argument(name, "--" + name[2:].replace("-", "_"), action="store_true", help=text)

    def split(self, words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """Return the values of these options, and the words that are left for fairseq."""
        raise_errors(self)
        return self.parse_known_args(list(words))


def value(words: Sequence[str], *names: str) -> Optional[str]:
    """Return the value of an option, the last one as argparse takes it; None where it is not given."""
    parser = OwnOptions()
    parser.add_argument(*names, dest="value")
    return parser.split(words)[0].value


def given(words: Sequence[str]) -> list[str]:
    """Return the names of the options on a command line, as they are written."""
    return [word.split("=")[0] for word in words if word.startswith("-")]


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether a command line asks for the help of the program."""
    return bool({"-h", "--help"} & set(words))


def words_of(**options: Optional[str]) -> list[str]:
    """Write options that have a value as words."""
    pairs = ((f"--{name.replace('_', '-')}", text) for name, text in options.items() if text is not None)
    return [word for pair in pairs for word in pair]
