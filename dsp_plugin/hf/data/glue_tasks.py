"""The nine GLUE tasks: files, columns, labels, metrics, names of the submission (Wang et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...options.errors import OptionError

NLI = ("entailment", "neutral", "contradiction")
TWO_WAY = ("entailment", "not_entailment")
BINARY = ("0", "1")


@dataclass(frozen=True)
class Split:
    """One file of a task.

    Attributes:
        name: as in `datasets` ("train", "dev_matched" ... with dev for its validation).
        file: in the task's folder.
        rows: of the official file, where known.
        submission: name of the prediction file, on test sets.
        suffix: of the metrics' names ("" or "_mm").
        optional: may be missing where the task's others are there.
    """

    name: str
    file: str
    rows: int | None = None
    submission: str = ""
    suffix: str = ""
    optional: bool = False

    @property
    def is_labelled(self) -> bool:
        return not self.submission


@dataclass(frozen=True)
class Task:
    """A GLUE task.

    Attributes:
        columns: header of the one or two columns of text.
        labels: in the order of their numbers, as the files write them, empty for a regression.
        metrics: the names of the scores.
        main_metric: the one that tables show.
    """

    name: str
    folder: str
    columns: tuple[str, ...]
    label_column: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    main_metric: str
    splits: tuple[Split, ...] = field(repr=False)

    @property
    def is_regression(self) -> bool:
        return not self.labels

    @property
    def num_labels(self) -> int:
        """The number of outputs of the task head: 1 for a regression."""
        return len(self.labels) or 1

    @property
    def dev_splits(self) -> tuple[str, ...]:
        return tuple(split.name for split in self.splits if split.name.startswith("dev"))

    @property
    def test_splits(self) -> tuple[str, ...]:
        return tuple(split.name for split in self.splits if split.submission)

    def split(self, name: str) -> Split:
        """Find the split of that name.

        Raises:
            ValueError: the task has none.
        """
        for split in self.splits:
            if split.name == name:
                return split
        known = ", ".join(split.name for split in self.splits)
        raise ValueError(f"{self.name} has no split {name!r}: it has {known}")


# The range of STS-B's similarities.
LOWEST_SCORE, HIGHEST_SCORE = 0.0, 5.0


def _three(name: str, train: int | None, dev: int | None, test: int) -> tuple[Split, ...]:
    return (
        Split("train", "train.tsv", train),
        Split("dev", "dev.tsv", dev),
        Split("test", "test.tsv", test, submission=f"{name}.tsv"),
    )


_SENTENCES = ("sentence1", "sentence2")
_MNLI_SPLITS = (
    Split("train", "train.tsv", 392702),
    Split("dev_matched", "dev_matched.tsv", 9815),
    Split("dev_mismatched", "dev_mismatched.tsv", 9832, suffix="_mm"),
    Split("test_matched", "test_matched.tsv", 9796, submission="MNLI-m.tsv"),
    Split("test_mismatched", "test_mismatched.tsv", 9847, submission="MNLI-mm.tsv"),
    # The diagnostic set of the leaderboard, answered by the MNLI model.
    Split("diagnostic", "diagnostic.tsv", 1104, submission="AX.tsv", optional=True),
)

# The row counts of QQP's labelled files are None: it has ragged rows, and who skips which differs.
_TASKS = (
    Task(
        "cola",
        "CoLA",
        ("sentence",),
        "label",
        BINARY,
        ("matthews_correlation",),
        "matthews_correlation",
        _three("CoLA", 8551, 1043, 1063),
    ),
    Task(
        "sst2",
        "SST-2",
        ("sentence",),
        "label",
        BINARY,
        ("accuracy",),
        "accuracy",
        _three("SST-2", 67349, 872, 1821),
    ),
    Task(
        "mrpc",
        "MRPC",
        ("#1 String", "#2 String"),
        "Quality",
        BINARY,
        ("accuracy", "f1"),
        "f1",
        _three("MRPC", 3668, 408, 1725),
    ),
    Task(
        "stsb",
        "STS-B",
        _SENTENCES,
        "score",
        (),
        ("pearson", "spearmanr"),
        "spearmanr",
        _three("STS-B", 5749, 1500, 1379),
    ),
    Task(
        "qqp",
        "QQP",
        ("question1", "question2"),
        "is_duplicate",
        BINARY,
        ("accuracy", "f1"),
        "f1",
        _three("QQP", None, None, 390965),
    ),
    Task("mnli", "MNLI", _SENTENCES, "gold_label", NLI, ("accuracy",), "accuracy", _MNLI_SPLITS),
    Task(
        "qnli",
        "QNLI",
        ("question", "sentence"),
        "label",
        TWO_WAY,
        ("accuracy",),
        "accuracy",
        _three("QNLI", 104743, 5463, 5463),
    ),
    Task(
        "rte", "RTE", _SENTENCES, "label", TWO_WAY, ("accuracy",), "accuracy", _three("RTE", 2490, 277, 3000)
    ),
    Task(
        "wnli", "WNLI", _SENTENCES, "label", BINARY, ("accuracy",), "accuracy", _three("WNLI", 635, 71, 146)
    ),
)
TASKS = {task.name: task for task in _TASKS}
# Names that older programs use, beside those that differ in case, "-" and "_" only.
_OTHER_NAMES = {"sst": "sst2", "sts": "stsb"}


def find_task(name: str) -> Task:
    """Find the task of that name: case, "-" and "_" do not matter (`SST-2`, `sst2`, `sts_b`).

    Raises:
        OptionError: there is no such task.
    """
    folded = name.lower().replace("-", "").replace("_", "")
    folded = _OTHER_NAMES.get(folded, folded)
    if folded not in TASKS:
        known = ", ".join(task.folder for task in _TASKS)
        raise OptionError("task_name", f"{name}: no GLUE task; there are {known}")
    return TASKS[folded]
