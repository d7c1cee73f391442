"""Files that carry a checksum: damage, a cut and a change by hand are noticed when they are read.

A JSON object holds it in its first entry, `"checksum": "sha256:..."`, over what the others say: another
layout or order of entries is the same content. Of JSON a line (a history) every line holds the one over all
lines, so that none can go unnoticed. Files of earlier versions have none: they are read with a warning, and
`dsp seal` puts one in.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Sequence
from typing import Any

from .whole import write_text

logger = logging.getLogger(__name__)

CHECKSUM = "checksum"
MAX_BYTES = 256 * 2**20  # of a JSON file; the largest, the sentences of a test set, take some 50 bytes each
_warned: set[str] = set()


class DamagedError(ValueError):
    """A file that is not what was written; the message names it and says what to do."""


def with_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content with its checksum in the first entry."""
    return {
        CHECKSUM: _checksum_of(content),
        **{name: value for name, value in content.items() if name != CHECKSUM},
    }


def seal_text(text: str) -> str:
    """Return the text of a JSON object with its checksum, in the same layout; an old checksum is replaced.

    Raises:
        ValueError: it is no JSON object.
    """
    content = parse_json(text)
    if not isinstance(content, dict):
        raise ValueError("only a JSON object can hold a checksum")
    old = content.get(CHECKSUM)
    new = _checksum_of(content)
    if old is not None:
        written = json.dumps(old)
        if text.count(written) != 1:
            raise ValueError(f'its "{CHECKSUM}" cannot be told from the rest: delete that entry by hand')
        return text.replace(written, json.dumps(new))
    opening = re.match(r"\s*\{(\s*)", text)
    rest, space = text[opening.end() :], opening[1]
    comma = f",{space or ' '}" if content else ""
    return f'{{{space}"{CHECKSUM}": "{new}"{comma}{rest}'


def write_json(path: str | os.PathLike, text: str) -> None:
    """Write the text of a JSON object with its checksum, whole or not at all.

    Raises:
        OSError: it cannot be written. ValueError: it is no JSON object.
    """
    write_text(path, seal_text(text))


def read_json(path: str | os.PathLike, warn: bool = True) -> Any:
    """Read what a JSON file says, without its checksum.

    Args:
        warn: of an object without a checksum, once a file.

    Raises:
        DamagedError: no JSON, too large, nested too deeply, or its content does not fit its checksum.
        OSError: it cannot be read.
    """
    content, sealed = load_json(path)
    if warn and not sealed and isinstance(content, dict):
        warn_unsealed(path)
    return content


def content_of(path: str | os.PathLike, data: bytes) -> Any:
    """Read what the JSON `data` of the file `path` says, without its checksum. Raises: as `read_json`."""
    content, sealed = _checked(path, data)
    if not sealed and isinstance(content, dict):
        warn_unsealed(path)
    return content


def load_json(path: str | os.PathLike) -> tuple[Any, bool]:
    """Do as `read_json` without a warning; return also whether the content was checked."""
    try:
        data = read_bounded(path)
    except ValueError as error:
        raise DamagedError(f"{path} is damaged: {error}") from None
    return _checked(path, data)


def _checked(path: str | os.PathLike, data: bytes) -> tuple[Any, bool]:
    try:
        content = parse_json(data)
    except ValueError as error:
        raise DamagedError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict) or not _is_sealed(content):
        return content, False
    if content.get(CHECKSUM) != _checksum_of(content):
        raise DamagedError(misfit(path))
    return {name: value for name, value in content.items() if name != CHECKSUM}, True


def write_lines(path: str | os.PathLike, entries: Sequence[dict[str, Any]]) -> None:
    """Write one JSON object a line, each with the checksum over all of them, whole or not at all.

    Raises:
        OSError: it cannot be written. ValueError: there is no entry.
    """
    if not entries:
        raise ValueError("a file without lines has no place for its checksum")
    checksum = {CHECKSUM: _digest(entries)}
    write_text(path, "".join(json.dumps({**checksum, **entry}) + "\n" for entry in entries))


def read_lines(path: str | os.PathLike, warn: bool = True) -> list[dict[str, Any]]:
    """Read the entries of `write_lines`, without the checksum.

    In a file without a checksum (of an earlier version, which appended to it) a last line that a kill cut off
    is left out.

    Raises:
        DamagedError: a line is no JSON object, there is none, or they do not fit their checksum.
        OSError: it cannot be read.
    """
    entries = _read_entries(path)
    if not any(map(_is_sealed, entries)):
        if warn:
            warn_unsealed(path)
        return entries
    checksums = [entry.pop(CHECKSUM, None) for entry in entries]
    if checksums != [_digest(entries)] * len(entries):
        raise DamagedError(f"{misfit(path)}; {_or_delete(path)}")
    return entries


def reseal_json(path: str | os.PathLike) -> None:
    """Put the checksum of what a JSON file says now into it.

    Raises:
        ValueError: it is no JSON object. OSError: it cannot be read or written.
    """
    try:
        text = _decoded(read_bounded(path))
        new = seal_text(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if new != text:
        write_text(path, new)


def reseal_lines(path: str | os.PathLike) -> None:
    """Do as `reseal_json` for a file of JSON objects, one a line."""
    write_lines(
        path,
        [{name: value for name, value in entry.items() if name != CHECKSUM} for entry in _read_entries(path)],
    )


def _read_entries(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read what the lines say, checksums included."""
    try:
        text = _decoded(read_bounded(path))
    except ValueError as error:
        raise DamagedError(f"{path} is damaged: {error}") from None
    entries, lines = [], [line for line in text.split("\n") if line]
    for number, line in enumerate(lines, 1):
        try:
            entry = parse_json(line)
        except ValueError as error:
            cut = number == len(lines) and not text.endswith("\n")
            if cut and entries and not any(map(_is_sealed, entries)):
                break
            raise DamagedError(f"{path} is damaged: line {number}: {error}; {_or_delete(path)}") from None
        if not isinstance(entry, dict):
            raise DamagedError(f"{path} is damaged: line {number} is no JSON object; {_or_delete(path)}")
        entries.append(entry)
    if not entries:
        raise DamagedError(f"{path} is damaged: it is empty; {_or_delete(path)}")
    return entries


def parse_json(text: str | bytes) -> Any:
    """Do as `json.loads`, whose every refusal is here a ValueError of one line.

    Raises:
        ValueError: not UTF-8, no JSON, or nested too deeply.
    """
    try:
        return json.loads(_decoded(text) if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not readable as JSON ({error})") from None


def read_bounded(path: str | os.PathLike, limit: int = MAX_BYTES) -> bytes:
    """Read the bytes of a file.

    Raises:
        ValueError: there are more than `limit`. OSError: it cannot be read.
    """
    size = os.path.getsize(path)
    if size > limit:
        raise ValueError(f"it has {size:,} bytes, and {limit:,} are the most that such a file has")
    with open(path, "rb") as file:  # a device or a pipe has no size, and need not have an end
        found = file.read(limit + 1)
    if len(found) > limit:
        raise ValueError(f"it goes on after {limit:,} bytes, the most that such a file has")
    return found


def misfit(path: str | os.PathLike) -> str:
    """Say of a file that its content does not fit its checksum."""
    advice = f"if it was changed on purpose: dsp seal {path}"
    return f"{path} is damaged: its content does not fit its checksum ({advice})"


def warn_unsealed(
    path: str | os.PathLike, what: str = "has no checksum (it is of an earlier version)"
) -> None:
    """Say once that a file or folder cannot be checked, and how it gets a checksum."""
    key = os.path.abspath(path)
    if key not in _warned:
        _warned.add(key)
        logger.warning("%s %s: damage to it would go unseen; `dsp seal %s` puts one in", path, what, path)


def _is_sealed(content: dict[str, Any]) -> bool:
    """Return whether there is a checksum, also one whose name, or value, or both, damage has changed."""
    texts = (value for value in content.values() if isinstance(value, str))
    return CHECKSUM in content or any(map(_resembles_checksum, texts))


def _resembles_checksum(value: str) -> bool:
    """Return whether a text is as long as a checksum and nearly all hexadecimal, as no other text of ours."""
    wanted = len("sha256:") + 64
    return abs(len(value) - wanted) <= 2 and sum(letter in "0123456789abcdef" for letter in value) >= 60


def _checksum_of(content: dict[str, Any]) -> str:
    return _digest({name: value for name, value in content.items() if name != CHECKSUM})


def _digest(content: Any) -> str:
    # the canonical form: sorted names, no blanks, ASCII
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode('ascii')).hexdigest()}"


def _or_delete(path: str | os.PathLike) -> str:
    return f"delete {path} to go on without it"


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 ({error.reason} at byte {error.start})") from None
