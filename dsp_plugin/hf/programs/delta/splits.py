"""The files of a few-shot folder: its test set is the official development set, and has labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...data.glue_files import COLA_HEADER
from ...data.glue_tasks import Split, Task

_TESTS = {"test": "", "test_matched": "", "test_mismatched": "_mm"}


def with_labelled_tests(task: Task, folder: str | None) -> Task:
    """Return the task with the splits that a folder has, where its test sets have labels.

    A folder of the official files, whose test sets have none, leaves the task as it is.
    """
    if not folder:
        return task
    there = [name for name in _TESTS if has_labels(task, Path(folder, f"{name}.tsv"))]
    if not there:
        return task
    kept = [
        replace(split, rows=None)
        for split in task.splits
        if split.name == "train" or (split.name.startswith("dev") and Path(folder, split.file).is_file())
    ]
    tests = [Split(name, f"{name}.tsv", suffix=f"_test{_TESTS[name]}") for name in there]
    return replace(task, splits=(*kept, *tests))


def has_labels(task: Task, path: Path) -> bool:
    """Return whether a file is there and is laid out as the task's labelled ones are, by its first line."""
    if not path.is_file():
        return False
    with open(path, "rb") as handle:
        cells = handle.readline().decode("utf-8-sig", "replace").rstrip("\r\n").split("\t")
    return len(cells) == len(COLA_HEADER) if task.name == "cola" else task.label_column in cells
