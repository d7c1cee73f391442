"""Text for a causal language model: JSONL of {source, target}, and plain text, one a line.

A plain line is a text by itself, or `source => target`. Only a line feed ends a line: text may hold U+2028.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .data_error import DataError

JSONL = (".jsonl", ".json")


class Line(NamedTuple):
    """One line of a file.

    Attributes:
        source: what the text goes on from; empty where the line is a text by itself.
        targets: how it may go on; several are references of equal right. Empty where only sources are read.
    """

    source: str
    targets: tuple[str, ...]


def read_lines(path: str | os.PathLike, separator: str, with_targets: bool = True) -> list[Line]:
    """Read all lines but empty ones: JSONL by the file's ending, .jsonl or .json, else plain text.

    A plain file has the separator in all of its lines or in none; blanks at the ends of texts are dropped.

    Args:
        separator: what divides a plain line, at its first place there; empty where nothing does.
        with_targets: whether every line must have one. Where not, targets may be missing, and a plain line
            without separator is a source.

    Raises:
        DataError: the file cannot be read, is not UTF-8, has no text, or a line is not as it should be; names
            file and line.
    """
    path = Path(path)
    lines = []
    # what the separator is without the blanks that divide it from its neighbours, which lines may lack
    mark, first = separator.strip() or separator, None
    for number, text in enumerate(_texts(path), start=1):
        place = f"{path}, line {number}"
        if not text.strip():
            continue
        if path.suffix in JSONL:
            lines.append(_line_of_json(text, place, with_targets))
            continue
        divided = bool(mark) and mark in text
        if first is None:
            first = (number, divided)
        elif divided != first[1]:
            raise DataError(
                f"{place}: there is {'a' if divided else 'no'} separator {mark!r}, and in line {first[0]} "
                f"{'none' if divided else 'one'}: all lines have it, or none"
            )
        source, _, target = (part.strip() for part in text.partition(mark)) if divided else ("", "", text)
        if divided and not source:
            raise DataError(f"{place}: there is no source before {mark!r}")
        if divided and not target and with_targets:
            raise DataError(f"{place}: there is no target behind {mark!r}")
        if not divided and not with_targets:
            source, target = text.strip(), ""
        lines.append(Line(source, (target.strip(),) if target.strip() else ()))
    if not lines:
        raise DataError(f"{path} has no text")
    return lines


def references_of(lines: Sequence[Line]) -> dict[str, list[str]]:
    """Return the references of each source, of all of its lines, in the order of the sources' first lines."""
    found: dict[str, list[str]] = {}
    for line in lines:
        found.setdefault(line.source, []).extend(line.targets)
    return found


def _texts(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason})") from error
    return [line.rstrip("\r") for line in text.split("\n")]


def _line_of_json(text: str, place: str, with_targets: bool) -> Line:
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: no JSON: {error}") from error
    if not isinstance(entry, dict):
        raise DataError(f"{place}: {type(entry).__name__} where an object with source and target belongs")
    if "source" not in entry:
        raise DataError(f"{place}: no 'source' (there is {', '.join(map(repr, entry)) or 'nothing'})")
    if with_targets and "target" not in entry:
        raise DataError(f"{place}: no 'target' (there is {', '.join(map(repr, entry))})")
    targets = entry.get("target") or []
    targets = targets if isinstance(targets, list) else [targets]
    found = [_text(target, "target", place) for target in targets]
    if with_targets and not found:
        raise DataError(f"{place}: 'target' is empty")
    if not all(found):
        raise DataError(f"{place}: a 'target' is empty")
    source = _text(entry["source"], "source", place)
    if not source and not found:
        raise DataError(f"{place}: 'source' is empty")
    return Line(source, tuple(found))


def _text(value: Any, name: str, place: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{place}: {name!r} is {type(value).__name__}, a text belongs there")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can write half a character
        raise DataError(f"{place}: {name!r} is no text: {error.reason}") from error
    return value.strip()
