"""The pieces that a template of Delta-Tuning is made of, and how each is read from its text."""

from __future__ import annotations

import re
from dataclasses import dataclass

SENTENCES = ("sent_", "+sent_", "sent-_", "sentl_", "+sentl_", "sentl-_", "sentu_", "+sentu_")
"""The spellings of a sentence, to be followed by its number."""
SPECIAL = ("cls", "mask", "sep", "sep+", "prompt")
LABELS = ("label_", "labelx_")
HIGHEST = 99  # no task has so many sentences; a larger number is a slip


@dataclass(frozen=True)
class Special:
    """A special token.

    Attributes:
        name: "cls", "mask" or "sep".
        next_segment: whether what follows has the next segment's number (`sep+`).
    """

    name: str
    next_segment: bool = False


@dataclass(frozen=True)
class Prompt:
    """The place of the soft prompt's vectors."""


@dataclass(frozen=True)
class Sentence:
    """A sentence of the example, or of a demonstration.

    Attributes:
        number: from 0. space: a space goes before it.
        first: what is done to its first character: "", "lower" or "upper".
        cut_last: its last character is left out.
    """

    number: int
    space: bool = False
    first: str = ""
    cut_last: bool = False

    def text(self, sentence: str) -> str:
        """Return the sentence as the piece has it."""
        if self.cut_last:
            sentence = sentence[:-1]
        if self.first:
            sentence = getattr(sentence[:1], self.first)() + sentence[1:]
        return f" {sentence}" if self.space else sentence


@dataclass(frozen=True)
class Label:
    """A label word: of the label with this number, or of the demonstration with this number (`labelx_`)."""

    number: int
    of_demonstration: bool = False


@dataclass(frozen=True)
class Literal:
    """Words that stand as they are, in them a space for each "_"."""

    text: str


Piece = Special | Prompt | Sentence | Label | Literal

# What was meant for a piece and is none: a number that is missing or no number, another order of the marks.
_NEARLY = re.compile(r"[-+]*(sent|label)([lux+-]*|s)(_\w*|\d+)?|[-+]*prompt\w*|sep[+-]+|\+sep")
# What is one letter away from a special token's name, and is a word of its own.
_WORDS = {"ask", "bask", "cask", "flask", "task", "masks", "mark", "mass", "mast", "mash", "mosk", "musk"}


def piece_of(text: str) -> Piece | None:
    """Read one piece, what stands between two "*"; None for nothing.

    Raises:
        ValueError: it looks like a piece and is none; says what is there.
    """
    if not text:
        return None
    if text in ("cls", "mask", "sep", "sep+"):
        return Special(text.rstrip("+"), text.endswith("+"))
    if text == "prompt":
        return Prompt()
    found = re.fullmatch(r"(\D*_)([0-9]+)", text)
    if found and int(found[2]) <= HIGHEST:
        spelling, number = found[1], int(found[2])
        if spelling in SENTENCES:
            marks = spelling.strip("+_").removeprefix("sent").rstrip("-")
            first = {"l": "lower", "u": "upper"}.get(marks, "")
            return Sentence(number, spelling.startswith("+"), first, "-" in spelling)
        if spelling in LABELS:
            return Label(number, spelling == "labelx_")
    reason = _why_no_literal(text)
    if reason:
        raise ValueError(f"*{text}* is no piece of a template: {reason}")
    return Literal(text.replace("_", " "))


def _why_no_literal(text: str) -> str:
    """Say which pieces there are, where the text looks like one of them; empty for a literal."""
    there = f"there are {', '.join(f'*{name}*' for name in SPECIAL)}"
    bare = re.sub(r"[\s\[\]<>{}()|/]", "", text).lower()
    if bare in SPECIAL or bare in ("bos", "eos", "pad", "unk", "s"):
        if bare != text and (bare != "s" or text in ("<s>", "</s>")):
            return there
    if _NEARLY.fullmatch(text.strip().lower()):
        sentences = ", ".join(f"*{name}0*" for name in SENTENCES)
        return f"{there}; {sentences}; *label_0*, *labelx_0*"
    # a marked name that is one letter off, or the long form of one: seq+, snet_0, lable_0, sentence_0
    marked = re.fullmatch(r"[-+]*([a-z]+)[-+]*(_\d+|(?<=[-+]))", text.strip().lower())
    if marked:
        names = ("sent", "sentl", "sentu", "label", "labelx") if marked[2] else ("sep",)
        if marked[1] in ("sentence", "text") and marked[2] or any(_one_off(marked[1], one) for one in names):
            return f"{there}; {', '.join(f'*{name}0*' for name in SENTENCES)}; *label_0*, *labelx_0*"
    if text.isalpha() and text.lower() not in _WORDS:
        meant = next((name for name in ("cls", "mask", "prompt") if _one_off(text.lower(), name)), None)
        if meant:
            return f"is *{meant}* meant?"
    return ""


def _one_off(text: str, name: str) -> bool:
    """Whether one letter added, left out, changed, or two that change places make `name` of the text."""
    if abs(len(text) - len(name)) > 1 or text == name:
        return False
    if len(text) == len(name):
        other = [place for place, pair in enumerate(zip(text, name)) if len({*pair}) > 1]
        swapped = len(other) == 2 and other[1] == other[0] + 1 and text[other[0]] == name[other[1]]
        return len(other) == 1 or (swapped and text[other[1]] == name[other[0]])
    longer, shorter = sorted((text, name), key=len, reverse=True)
    return any(longer[:place] + longer[place + 1 :] == shorter for place in range(len(longer)))
