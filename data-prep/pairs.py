"""Aligned text files: reading, checking and writing the two sides of a corpus.

A corpus split is named by a prefix: `raw/train` with the languages `de en` means the files
`raw/train.de` and `raw/train.en` (or `.gz` of them), one sentence a line, line i of the one
translating line i of the other.

As a program: checks splits before long work starts and prints one fingerprint of them all.

    python data-prep/pairs.py raw/train raw/valid raw/test --published 29000 1014 1000
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import re
import sys
from itertools import zip_longest
from pathlib import Path

from archives import ArchiveError, read_gz
from whole_files import whole_file

LANGS = ("de", "en")

# What ends a line to one program and not to another: a lone carriage return to all that read as Python does
# by default (fairseq), the others to those that read by `codecs` (subword-nmt).
BREAKS = re.compile("[\\r\\x0b\\x0c\\x1c-\\x1e\\x85\\u2028\\u2029]")
_NOT_TEXT = re.compile("[\\r\\x00]")
_NAMES = {"\r": "a carriage return that ends no line", "\x00": "a NUL", "\ufeff": "a byte-order mark"}


class CorpusError(Exception):
    """A corpus that cannot be used; the message names the file and what is wrong with it."""


def side_path(prefix: str | Path, lang: str) -> Path:
    """Find the file of one side; a `.gz` beside a missing file will do.

    Raises:
        CorpusError: neither file exists.
    """
    path = Path(f"{prefix}.{lang}")
    compressed = Path(f"{path}.gz")
    if path.is_file():
        return path
    if compressed.is_file():
        return compressed
    raise CorpusError(f"{path} is missing (nor is there {compressed.name})")


def read_side(path: Path, for_fairseq: bool = False) -> list[str]:
    """Read the lines of one file, without their ends.

    A line feed ends a line, with a carriage return before it or without: `str.splitlines` would also
    split at U+2028 or U+0085, which do occur in crawled text, and the two sides would drift apart.

    Args:
        for_fairseq: subword-nmt or fairseq read the file next, and must see the same lines.

    Raises:
        CorpusError: the file cannot be read, is not UTF-8, is a damaged archive, or has a character
            that another program would take for the end of a line; names the line.
    """
    try:
        text = (read_gz(path) if path.suffix == ".gz" else path.read_bytes()).decode(
            "utf-8" if for_fairseq else "utf-8-sig"
        )
    except ArchiveError as error:
        raise CorpusError(str(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} cannot be read: {error}") from error
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    lines = [line[:-1] if line.endswith("\r") else line for line in lines]
    refused = re.compile(f"{_NOT_TEXT.pattern}|{BREAKS.pattern}|^\ufeff") if for_fairseq else _NOT_TEXT
    for number, line in enumerate(lines, start=1):
        found = refused.search(line)
        if found:
            name = _NAMES.get(found.group(), f"U+{ord(found.group()):04X}")
            raise CorpusError(
                f"{path}, line {number}: {name}, which not every program reads alike: take it out"
            )
    return lines


def read_pair(
    prefix: str | Path, langs: tuple[str, str] = LANGS, for_fairseq: bool = False
) -> list[tuple[str, str]]:
    """Read all sentence pairs of a split.

    Args:
        for_fairseq: see `read_side`.

    Raises:
        CorpusError: a side is missing, empty, or has another number of lines than the other; see `read_side`.
    """
    source_path, target_path = (side_path(prefix, lang) for lang in langs)
    if for_fairseq and ".gz" in (source_path.suffix, target_path.suffix):
        raise CorpusError(f"{source_path}, {target_path}: fairseq reads no .gz: unpack it")
    source, target = read_side(source_path, for_fairseq), read_side(target_path, for_fairseq)
    for path, lines in ((source_path, source), (target_path, target)):
        if not any(line.strip() for line in lines):
            raise CorpusError(f"{path} is empty ({len(lines)} lines, none with text)")
    if len(source) != len(target):
        raise CorpusError(
            f"misaligned corpus: {source_path} has {len(source)} lines, {target_path} has {len(target)}"
        )
    return list(zip(source, target))


def write_pair(prefix: str | Path, pairs: list[tuple[str, str]], langs: tuple[str, str] = LANGS) -> None:
    """Write both sides before one of them gets its name, so that a file with its final name is complete."""
    with contextlib.ExitStack() as whole:
        outs = [whole.enter_context(whole_file(Path(f"{prefix}.{lang}"))) for lang in langs]
        for side, out in enumerate(outs):
            out.writelines(f"{pair[side]}\n".encode() for pair in pairs)


def is_complete(prefix: str | Path, langs: tuple[str, str] = LANGS, for_fairseq: bool = False) -> bool:
    """Return whether a split that an earlier run wrote needs no second writing."""
    try:
        read_pair(prefix, langs, for_fairseq)
    except CorpusError:
        return False
    return True


def fingerprint(prefixes: list[str], langs: tuple[str, str] = LANGS) -> str:
    """Return sixteen hex digits over the bytes of all files, in order."""
    digest = hashlib.sha256()
    for prefix in prefixes:
        for lang in langs:
            digest.update(hashlib.sha256(side_path(prefix, lang).read_bytes()).digest())
    return digest.hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description="Check splits; print a fingerprint of them all.")
    parser.add_argument("prefixes", nargs="+", metavar="PREFIX")
    parser.add_argument("--langs", nargs=2, default=list(LANGS), metavar=("SOURCE", "TARGET"))
    parser.add_argument(
        "--published",
        nargs="+",
        type=int,
        default=[],
        metavar="PAIRS",
        help="what each split has in the published set; another number gets a note",
    )
    args = parser.parse_args()
    langs = tuple(args.langs)
    try:
        for prefix, published in zip_longest(args.prefixes, args.published):
            count = len(read_pair(prefix, langs))
            note = f" (note: the published set has {published:,})" if published not in (None, count) else ""
            print(f"{prefix}: {count:,} pairs{note}", file=sys.stderr)
        print(fingerprint(args.prefixes, langs))
    except CorpusError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
