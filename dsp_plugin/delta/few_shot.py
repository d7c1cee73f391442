"""Few-shot data as LM-BFF and Delta-Tuning draw it: K examples a class from a GLUE task's training file.

Gao et al., "Making Pre-trained Language Models Better Few-shot Learners", ACL 2021, section 3. The files are
the same byte for byte as the published ones: for each seed, and then each task, the lines of train.tsv are
shuffled by NumPy's legacy generator; of each label, in the order in which labels turn up, the first K lines
are the training set and the next K (or 10 K) the development set; the test set is the whole dev.tsv.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..options.errors import OptionError
from ..records.files.whole import new_folder

SEEDS = (100, 13, 21, 42, 87)
"""The published ones, in their order."""
DEV_TIMES = {"k-shot": 1, "k-shot-10x": 10}
"""Mode -> examples of the development set, a class and K."""
TRAIN = "train.tsv"
_SPLIT_SCORE = 2.5  # STS-B's two classes: below, and from it on


@dataclass(frozen=True)
class FewShotTask:
    """Where a task's files have what sampling needs.

    Attributes:
        name: of its folder.
        label_column: from 0; -1 for the last one.
        labels: that a row can have; none for scores, which are told apart at 2.5.
        header: whether the labelled files begin with one.
        cells: of a row; a row with another number of them is never drawn (QQP has a few). None: any number.
        dev_files: file of the original -> file that is the test set.
        new_dev: the file of the development set that is drawn from the training file.
    """

    name: str
    label_column: int
    labels: tuple[str, ...] = ("0", "1")
    header: bool = True
    cells: int | None = None
    dev_files: tuple[tuple[str, str], ...] = (("dev.tsv", "test.tsv"),)
    new_dev: str = "dev.tsv"


_TWO_WAY = ("entailment", "not_entailment")
_MNLI = (("dev_matched.tsv", "test_matched.tsv"), ("dev_mismatched.tsv", "test_mismatched.tsv"))
_ALL = (
    FewShotTask("CoLA", 1, header=False),
    FewShotTask("SST-2", 1),
    FewShotTask("MRPC", 0),
    FewShotTask("QQP", 5, cells=6),
    FewShotTask(
        "MNLI", -1, ("entailment", "neutral", "contradiction"), dev_files=_MNLI, new_dev="dev_matched.tsv"
    ),
    FewShotTask("QNLI", -1, _TWO_WAY),
    FewShotTask("RTE", -1, _TWO_WAY),
    FewShotTask("STS-B", -1, labels=()),
)
TASKS = {task.name: task for task in _ALL}


@dataclass(frozen=True)
class Draw:
    """The lines of one few-shot data set, each with its line feed.

    Attributes:
        train, dev: with the header.
        short: "label: lines" of the classes of which the development set has fewer lines than were asked for.
        skipped: lines of the training file that are never drawn.
    """

    train: list[str]
    dev: list[str]
    short: tuple[str, ...]
    skipped: int


def find_task(name: str) -> FewShotTask:
    """Find the task of that name; case, "-" and "_" do not matter.

    Raises:
        OptionError: there is no such task.
    """
    for task in _ALL:
        if _folded(task.name) == _folded(name):
            return task
    raise OptionError("task", f"{name}: no task of the few-shot data; there are {', '.join(TASKS)}")


def read_lines(path: str | os.PathLike) -> list[str]:
    """Read lines as Python's text files have them: CR and CR LF end a line, too, and become LF.

    Raises:
        ValueError: not UTF-8. OSError: it cannot be read.
    """
    try:
        # one by one: str.splitlines would also end a line at U+2028
        with open(path, encoding="utf-8") as handle:
            return handle.readlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from error


class TrainingLines:
    """The lines of a task's training file, from which few-shot data sets are drawn one after the other.

    A file without a header (CoLA's) is shuffled in place, as in the published program, so what is drawn
    depends on the seeds that were drawn before. Of the other tasks each draw begins with the file's order.

    Args:
        lines: of train.tsv, header included.
        place: names the file in errors.

    Raises:
        ValueError: a line without one of the task's labels.
    """

    def __init__(self, task: FewShotTask, lines: Sequence[str], place: str = TRAIN):
        self.task, self.place = task, place
        first = 1 if task.header else 0
        self.header, self._lines = list(lines[:first]), list(lines[first:])
        # labels are looked up by the line's text, in place of numbers that a shuffle would have to carry
        self._labels: dict[str, str | None] = {}
        for number, line in enumerate(self._lines, start=first + 1):
            if line not in self._labels:
                self._labels[line] = _label_of(task, line, f"{place}, line {number}")

    def check(self, k: int) -> None:
        """Raise an OptionError where K is more than a class has, or leaves none for the development set."""
        counts = Counter(filter(None, map(self._labels.__getitem__, self._lines)))
        for label in self.task.labels or counts or ("any score",):
            if counts[label] < k:
                raise OptionError(
                    "k", f"{k} is more than the {counts[label]} lines of {label} in {self.place}"
                )
            if counts[label] == k:
                reason = f"{k} leaves no line of {label} in {self.place} for the development set"
                raise OptionError("k", reason)

    def draw(self, k: int, seed: int, dev_times: int = 1) -> Draw:
        """Draw K training lines a label, and the next `dev_times` K as the development set.

        Raises:
            OptionError: see `check`.
        """
        self.check(k)
        lines = self._lines if not self.task.header else list(self._lines)
        np.random.RandomState(seed).shuffle(lines)
        classes: dict[str, list[str]] = {}
        for line in lines:
            label = self._labels[line]
            if label is not None:
                classes.setdefault(label, []).append(line)
        train, dev, end = list(self.header), list(self.header), k * (1 + dev_times)
        for members in classes.values():
            train += members[:k]
            dev += members[k:end]
        short = [f"{label}: {len(rows) - k}" for label, rows in classes.items() if len(rows) < end]
        return Draw(train, dev, tuple(short), sum(self._labels[line] is None for line in lines))


class OfficialFiles:
    """The files of a task that few-shot data sets are made of.

    Args:
        folder: with the official training and development files.

    Raises:
        ValueError: files of another layout. OSError: one is missing.
    """

    def __init__(self, task: FewShotTask, folder: str | os.PathLike):
        path = Path(folder, TRAIN)
        self.task, self.training = task, TrainingLines(task, read_lines(path), str(path))
        self.tests = {new: read_lines(Path(folder, original)) for original, new in task.dev_files}

    def write(
        self, target: str | os.PathLike, k: int, seeds: Sequence[int], dev_times: int = 1
    ) -> Iterator[tuple[Path, Draw]]:
        """Write the data sets, a folder `K-SEED` for each seed, whole or not at all.

        Yields:
            each folder, once it is there, and what was drawn.

        Raises:
            OptionError: see `TrainingLines.check`. OSError: a folder cannot be written.
        """
        for seed in seeds:
            folder = Path(target, f"{k}-{seed}")
            drawn = self.training.draw(k, seed, dev_times)
            files = {TRAIN: drawn.train, self.task.new_dev: drawn.dev, **self.tests}
            with new_folder(folder, TRAIN) as written:
                for name, lines in files.items():
                    # line ends stay as they are, on every system
                    with open(written / name, "w", encoding="utf-8", newline="") as handle:
                        handle.writelines(lines)
            yield folder, drawn


def order_matters(tasks: Sequence[FewShotTask], seeds: Sequence[int]) -> list[str]:
    """List the tasks whose samples for these seeds are not the published ones, because of the seeds' order.

    The samples of a task without a header are the published ones if the seeds begin the published list.
    """
    if tuple(seeds) == SEEDS[: len(seeds)] or not set(seeds) & set(SEEDS):
        return []
    return [task.name for task in tasks if not task.header]


def _label_of(task: FewShotTask, line: str, place: str) -> str | None:
    """Return a line's class; None where the line is never drawn.

    Raises:
        ValueError: it has none of the task's.
    """
    cells = line.rstrip("\n").split("\t")
    if task.cells is not None and len(cells) != task.cells:
        return None
    if task.label_column >= len(cells):
        raise ValueError(f"{place}: {len(cells)} cells, and the label is cell {task.label_column + 1}")
    text = cells[task.label_column].strip()
    if task.labels:
        if text not in task.labels:
            raise ValueError(f"{place}: label {text!r} is none of {task.name}'s ({', '.join(task.labels)})")
        return text
    try:
        score = float(text)
    except ValueError:
        score = float("nan")
    if not 0 <= score <= 5:
        raise ValueError(f"{place}: score {text!r} is no number from 0 to 5")
    return "below 2.5" if score < _SPLIT_SCORE else "from 2.5"


def _folded(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
