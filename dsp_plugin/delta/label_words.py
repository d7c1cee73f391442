"""The mapping of labels to the words that stand for them: `{'0': 'terrible', '1': 'great'}`."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from ..options.errors import OptionError

OPTION = "mapping"
LONGEST = 10_000  # characters; no mapping has so many, and nested brackets must not fill the memory


def parse_mapping(text: str, labels: Sequence[str]) -> dict[str, str]:
    """Read a mapping, a Python or JSON dictionary of texts; nothing in it is evaluated.

    Args:
        labels: of the task, each of which must have a word.

    Returns:
        label -> word, in the order of `labels`.

    Raises:
        OptionError: it is no such dictionary, misses a label, has one that is not the task's or twice, or the
            same word for two.
    """
    example = f"{{{', '.join(f'{label!r}: ...' for label in labels)}}}"
    found = _pairs(text, f"a dictionary of labels and words belongs there: {example}")
    names = [name for name, _ in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise OptionError(OPTION, f"{text}: label {twice!r} stands there twice")
    strange = [name for name in names if name not in labels]
    if strange:
        raise OptionError(OPTION, f"{text}: {strange[0]!r} is no label; the labels are {', '.join(labels)}")
    missing = [label for label in labels if label not in names]
    if missing:
        raise OptionError(OPTION, f"{text}: label {missing[0]!r} has no word; {example} belongs there")
    words = dict(found)
    for label in labels:
        other = next((one for one in labels if one != label and words[one] == words[label]), None)
        if other is not None:
            raise OptionError(OPTION, f"{text}: {words[label]!r} stands for both {label} and {other}")
        if not words[label].strip():
            raise OptionError(OPTION, f"{text}: the word of label {label!r} is empty")
    return {label: words[label] for label in labels}


def _pairs(text: str, belongs: str) -> list[tuple[str, str]]:
    """Return labels and words, as they stand; a label may be a whole number, as in `{0: 'terrible'}`."""
    if len(text) > LONGEST:
        raise OptionError(OPTION, f"of {len(text):,} characters: {belongs}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if not isinstance(tree, ast.Dict) or None in tree.keys:
            raise ValueError(text)
        pairs = [
            (ast.literal_eval(key), ast.literal_eval(value)) for key, value in zip(tree.keys, tree.values)
        ]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise OptionError(OPTION, f"{text[:200]}: {belongs}") from None
    for key, value in pairs:
        if not isinstance(value, str) or not (isinstance(key, str) or type(key) is int):
            raise OptionError(OPTION, f"{text}: {key!r}: {value!r}: {belongs}")
    return [(str(key), value) for key, value in pairs]
