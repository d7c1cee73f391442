"""Examples of a GLUE task, from a folder of the official TSV files or through the `datasets` library."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ...options.errors import OptionError
from .data_error import DataError
from .glue_tasks import HIGHEST_SCORE, LOWEST_SCORE, Split, Task

logger = logging.getLogger(__name__)

# What CoLA's labelled files hold, which have no header: source, label, the linguists' own mark, sentence.
COLA_HEADER = ("source", "label", "mark", "sentence")
INDEX_COLUMNS = ("index", "id")
# QQP's official files have a few rows with too few or too many cells, which everybody skips. More are damage.
RAGGED_TASK = "qqp"
RAGGED_ROWS_ALLOWED, RAGGED_SHARE_ALLOWED = 10, 0.01

HUB_NAME = "nyu-mll/glue"
HUB_COLUMNS = {"mrpc": ("sentence1", "sentence2"), "mnli": ("premise", "hypothesis")}


class Example(NamedTuple):
    """One row of a task.

    Attributes:
        index: what a prediction file calls the row.
        second: None in tasks of one sentence.
        label: its number, or STS-B's score, or None on a test set.
    """

    index: str
    first: str
    second: str | None
    label: int | float | None


def load_split(
    task: Task,
    split: str,
    data_dir: str | os.PathLike | None = None,
    cache_dir: str | None = None,
    limit: int | None = None,
) -> list[Example]:
    """Read the examples of one split, or the first `limit` of them, in the order of the file.

    Without `data_dir` the `datasets` library fetches them, or finds them in its cache.

    Raises:
        ValueError: the task has no such split.
        DataError: a file is missing, damaged or of another layout (file and line are named).
        OptionError: `data_dir` is no folder, or it is not given and the split cannot be fetched.
    """
    wanted = task.split(split)
    if data_dir:
        examples = read_split(task, wanted, Path(data_dir))
    else:
        examples = fetch_split(task, wanted, cache_dir)
    return examples if limit is None else examples[:limit]


def read_split(task: Task, split: Split, folder: Path) -> list[Example]:
    """Read the rows of one official TSV file; quotes are text, as the files have unbalanced ones.

    Raises:
        DataError, OptionError: see `load_split`.
    """
    path = _existing(task, split, folder)
    rows = _rows(path)
    if task.name == "cola" and split.is_labelled:
        header, first_line = list(COLA_HEADER), 1
    else:
        header, first_line = rows[0] if rows else [], 2
        rows = rows[1:]
    columns = [_column(header, name, path) for name in task.columns]
    label_column = _column(header, task.label_column, path) if split.is_labelled else None
    index_column = next((header.index(name) for name in INDEX_COLUMNS if name in header), None)

    examples, ragged = [], []
    for number, (line, row) in enumerate(enumerate(rows, start=first_line)):
        place = f"{path}, line {line}"
        if len(row) != len(header):
            if task.name == RAGGED_TASK and split.is_labelled:
                ragged.append(line)
                continue
            raise DataError(
                f"{place}: {len(row)} tab-separated cells, {len(header)} belong there ({', '.join(header)})"
            )
        texts = [row[column] for column in columns]
        if not any(text.strip() for text in texts):
            raise DataError(f"{place}: there is no text in {' and '.join(task.columns)}")
        label, index = None, str(number)
        if label_column is not None:
            label = parse_label(task, row[label_column], place)
        elif index_column is not None:
            # A submission with a gap is refused by the leaderboard, after all the work.
            if row[index_column] != index:
                raise DataError(
                    f"{place}: {header[index_column]} {row[index_column]!r} where {index} "
                    "belongs; is a row missing?"
                )
        examples.append(Example(index, texts[0], texts[1] if len(texts) > 1 else None, label))

    _check_ragged(path, ragged, len(rows), len(header))
    if not examples:
        raise DataError(f"{path} has no rows")
    if split.rows not in (None, len(examples)):
        logger.warning(
            "%s has %s rows; the official file has %s", path, f"{len(examples):,}", f"{split.rows:,}"
        )
    return examples


def parse_label(task: Task, text: str, place: str) -> int | float:
    """Return the number of a label, or a score.

    Raises:
        DataError: it is none of the task's.
    """
    if not task.is_regression:
        if text not in task.labels:
            raise DataError(f"{place}: label {text!r} is none of {task.folder}'s ({', '.join(task.labels)})")
        return task.labels.index(text)
    try:
        score = float(text)
    except ValueError:
        score = float("nan")
    if not LOWEST_SCORE <= score <= HIGHEST_SCORE:  # false for nan, too
        raise DataError(f"{place}: score {text!r} is no number from {LOWEST_SCORE:g} to {HIGHEST_SCORE:g}")
    return score


def fetch_split(task: Task, split: Split, cache_dir: str | None = None) -> list[Example]:
    """Fetch the rows of one split through the `datasets` library.

    Raises:
        OptionError: the library is not installed, or it cannot give the split.
        DataError: see `examples_of_hub`.
    """
    try:
        import datasets
    except ImportError as error:
        reason = "is missing, and without it the `datasets` library is needed: pip install datasets"
        raise OptionError("data_dir", reason) from error
    # The diagnostic set is a data set of its own there.
    config, name = (
        ("ax", "test") if split.name == "diagnostic" else (task.name, split.name.replace("dev", "validation"))
    )
    try:
        rows = datasets.load_dataset(HUB_NAME, config, split=name, cache_dir=cache_dir)
    except Exception as error:  # whatever the hub, the network and the cache can do
        needed = "must name a folder of the official TSV files (data-prep/download_glue_data.py makes one)"
        reason = f"{needed}: `datasets` cannot give {HUB_NAME} {config} {name}: {error}"
        raise OptionError("data_dir", reason) from error
    return examples_of_hub(task, split, rows)


def examples_of_hub(task: Task, split: Split, rows: Iterable[dict[str, Any]]) -> list[Example]:
    """Make examples of the hub's rows: its labels are numbered as ours, -1 on test sets.

    Raises:
        DataError: a row lacks a column or has a label outside the task's set.
    """
    columns = HUB_COLUMNS.get(task.name, task.columns)
    examples = []
    for number, row in enumerate(rows):
        place = f"{HUB_NAME} {task.name} {split.name}, row {number}"
        missing = {*columns, "label"} - set(row)
        if missing:
            raise DataError(f"{place}: no column {', '.join(sorted(missing))}")
        label = None
        if split.is_labelled:
            label = row["label"]
            if task.is_regression:
                label = parse_label(task, str(label), place)
            elif label not in range(task.num_labels):
                raise DataError(f"{place}: label {label!r} is none of 0..{task.num_labels - 1}")
        texts = [row[column] for column in columns]
        examples.append(Example(str(number), texts[0], texts[1] if len(texts) > 1 else None, label))
    if not examples:
        raise DataError(f"{HUB_NAME} {task.name} {split.name} has no rows")
    return examples


def _existing(task: Task, split: Split, folder: Path) -> Path:
    if not folder.is_dir():
        raise OptionError("data_dir", f"{folder} is not a folder")
    path = folder / split.file
    if not path.is_file():
        there = sorted(other.name for other in folder.iterdir() if other.suffix == ".tsv")
        raise DataError(
            f"{path} is missing; {task.folder} needs it as {split.name}. In {folder} there is "
            f"{', '.join(there) if there else 'no .tsv file'}."
        )
    return path


def _rows(path: Path) -> list[list[str]]:
    """Yield every line's cells. Only a line feed ends a line: text may hold U+2028 or a carriage return."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")  # MRPC's files start with a byte-order mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason})") from error
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.rstrip("\r").split("\t") for line in lines]


def _column(header: list[str], name: str, path: Path) -> int:
    if name not in header:
        raise DataError(f"{path}, line 1: no column {name!r} in the header ({', '.join(header)[:200]})")
    return header.index(name)


def _check_ragged(path: Path, ragged: list[int], rows: int, cells: int) -> None:
    if not ragged:
        return
    shown = ", ".join(map(str, ragged[:5])) + (" ..." if len(ragged) > 5 else "")
    if len(ragged) > max(RAGGED_ROWS_ALLOWED, RAGGED_SHARE_ALLOWED * rows) or len(ragged) == rows:
        raise DataError(f"{path}: {len(ragged):,} of {rows:,} rows have not {cells} cells (lines {shown})")
    logger.warning(
        "%s: %d of %s rows skipped, which have not %d cells (lines %s)",
        path,
        len(ragged),
        f"{rows:,}",
        cells,
        shown,
    )
