"""What a number is for, and so which numbers it may be: `check_number(-1, "positive")` says why not.

A shell keeps a table of its options and their meanings and looks at each before anything is loaded; the words
here name no option. NaN and infinities are refused everywhere: a comparison such as `lr < 0` lets NaN pass.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

LARGEST = 2**63 - 1  # the whole numbers of NumPy and torch


@dataclass(frozen=True)
class Meaning:
    """A set of numbers with its name.

    Attributes:
        words: which numbers, to go on with "belongs there".
        least, most: the ends of the range; `open_least`, `open_most`: whether that end itself is outside.
        whole: whether only whole numbers are meant.
        also: single numbers outside the range that mean something of their own, such as -1 for "none".
    """

    words: str
    least: float = -math.inf
    most: float = math.inf
    open_least: bool = False
    open_most: bool = False
    whole: bool = False
    also: tuple[float, ...] = ()

    def or_else(self, *values: float, meant: str = "") -> Meaning:
        """Allow this or one of `values`; `meant` says what they mean, to stand behind "or -1"."""
        written = " or ".join(f"{value:g}" for value in values)
        words = f"{self.words}, or {written}{meant and ' ' + meant}"
        return replace(self, words=words, also=(*self.also, *values))

    def takes(self, value: float) -> bool:
        if value in self.also:
            return True
        if isinstance(value, float) and not (math.isfinite(value) and (value.is_integer() or not self.whole)):
            return False
        if abs(value) > (LARGEST if self.whole else sys.float_info.max):
            return False
        above = value > self.least if self.open_least else value >= self.least
        below = value < self.most if self.open_most else value <= self.most
        return above and below


MEANINGS: Mapping[str, Meaning] = {
    "positive": Meaning("a finite number above 0", 0, open_least=True),
    "non-negative": Meaning("a finite number, 0 or more", 0),
    "finite": Meaning("a finite number"),
    "probability": Meaning("a probability, from 0 to 1", 0, 1),
    "dropout": Meaning("a probability, from 0 to below 1", 0, 1, open_most=True),
    "share": Meaning("a share, above 0 and at most 1", 0, 1, open_least=True),
    "decay": Meaning("a number from 0 to below 1", 0, 1, open_most=True),  # Adam's betas
    "count": Meaning("a whole number, 1 or more", 1, whole=True),
    "amount": Meaning("a whole number, 0 or more", 0, whole=True),
    "whole": Meaning("a whole number", whole=True),
    "switch": Meaning("0 or 1", 0, 1, whole=True),
    # what a sampler can divide by, see gating/sampling/limits.py
    "temperature": Meaning("a positive finite number (at least 1e-30)", 1e-30),
    # what NumPy and torch take both
    "seed": Meaning("a whole number from 0 to 4294967295", 0, 2**32 - 1, whole=True),
    "port": Meaning("a whole number from 1 to 65535", 1, 65535, whole=True),
}


def check_number(value: Any, meaning: str | Meaning | Sequence[str | Meaning]) -> str | None:
    """Say why `value` is not what is meant, as "a finite number above 0 belongs there"; None where it is.

    Args:
        value: a number, or a list or tuple of numbers, each of which is looked at. None is nobody's number:
            whether an option may be left out is for the caller to say. True and False are no numbers.
        meaning: one of `MEANINGS` by its name, one of the caller's own, or several, any of which will do.
    """
    several = [meaning] if isinstance(meaning, (str, Meaning)) else meaning
    meant = [MEANINGS[one] if isinstance(one, str) else one for one in several]
    for one in value if isinstance(value, (list, tuple)) else [value]:
        is_number = isinstance(one, (int, float)) and not isinstance(one, bool)
        if not (is_number and any(either.takes(one) for either in meant)):
            return f"{', or '.join(either.words for either in meant)} belongs there"
    return None


def number(*meanings: str | Meaning) -> Callable[[str], float]:
    """Make an argparse `type=`: a text as a number of one of these meanings; an int where all are whole."""
    whole = all((MEANINGS[one] if isinstance(one, str) else one).whole for one in meanings)

    def parse(text: str) -> float:
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            value = math.nan
        reason = check_number(value, meanings)
        if reason is not None:
            raise argparse.ArgumentTypeError(f"{text!r}: {reason}")
        return value

    parse.meanings = meanings  # type: ignore[attr-defined]  (for a test that no number goes without)
    return parse
