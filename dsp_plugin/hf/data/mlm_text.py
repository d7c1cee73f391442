"""Sentences to pretrain a masked language model on: training sides alone, never a sentence that is scored.

What a development or test set has, in any spelling of case, blanks and punctuation, is left out even where a
training set has it, too.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...options.errors import OptionError
from .clm_files import read_lines
from .glue_files import read_split
from .glue_tasks import TASKS

_NO_LETTERS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Sentences:
    """What came of reading.

    Attributes:
        train: to learn from. held_out: of the same files, for scoring; no sentence is in both.
        files: that were read for training.
        scored: sentences that were left out because a development or test set has them.
        short: those of fewer words than were asked for. repeated: those that were there already.
    """

    train: list[str]
    held_out: list[str]
    files: list[Path]
    scored: int
    short: int
    repeated: int


def read_sentences(
    glue_dir: str | os.PathLike | None,
    text_files: Sequence[str | os.PathLike],
    left_out_files: Sequence[str | os.PathLike] = (),
    held_out: int = 1000,
    min_words: int = 4,
) -> Sentences:
    """Read the training sentences of GLUE's folders and of plain text, a sentence a line.

    Args:
        glue_dir: with CoLA/, MRPC/ ...: of each the train.tsv is read, and its other sets are left out.
        text_files: of training sentences. left_out_files: text of which no sentence is taken.
        held_out: so many are kept for scoring, those with the smallest hashes: the same ones in any order.
        min_words: shorter ones, such as SST-2's phrases, are dropped.

    Raises:
        DataError: a file is damaged or missing; names file and line.
        OptionError: there is no training sentence, or not more of them than are held out.
    """
    files, texts, scored = [Path(path) for path in text_files], [], set()
    for path in files:
        texts += _lines(path)
    for path in left_out_files:
        scored |= {_key(text) for text in _lines(path)}
    if glue_dir is not None:
        for path, own, others in _of_glue(Path(glue_dir)):
            files.append(path)
            texts += own
            scored |= {_key(text) for text in others}
    found: dict[str, str] = {}
    counts = {"scored": 0, "short": 0, "repeated": 0}
    for text in texts:
        key = _key(text)
        if key in scored:
            counts["scored"] += 1
        elif len(text.split()) < min_words or not key:
            counts["short"] += 1
        elif key in found:
            counts["repeated"] += 1
        else:
            found[key] = text
    if len(found) <= held_out:
        reason = f"{held_out}: there are {len(found):,} sentences to take them from, and none would be left"
        raise OptionError("held_out", reason)
    apart = set(sorted(found, key=_hash)[:held_out])
    train = [text for key, text in found.items() if key not in apart]
    return Sentences(train, [text for key, text in found.items() if key in apart], files, **counts)


def _of_glue(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield (train.tsv, its texts, the texts of the other sets) for each task of which there is one."""
    if not folder.is_dir():
        raise OptionError("glue_dir", f"{folder} is not a folder")
    found = False
    for task in TASKS.values():
        place = folder / task.folder
        train = place / task.split("train").file
        if not train.is_file():
            continue
        found, others = True, []
        for split in task.splits:
            if split.name != "train" and (place / split.file).is_file():
                others += _both(read_split(task, split, place))
        yield train, _both(read_split(task, task.split("train"), place)), others
    if not found:
        raise OptionError("glue_dir", f"{folder} has no task with a train.tsv in it")


def _both(examples: Iterable) -> list[str]:
    return [text for one in examples for text in (one.first, one.second) if text]


def _lines(path: str | os.PathLike) -> list[str]:
    return [line.targets[0] for line in read_lines(path, "")]


def _key(text: str) -> str:
    """Return what is equal for two spellings of a sentence."""
    return _NO_LETTERS.sub("", text.lower())


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
