"""Scores of the GLUE tasks, and prediction files as the leaderboard takes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...records.files.whole import write_text
from .glue_tasks import HIGHEST_SCORE, LOWEST_SCORE, Task


def answers(task: Task, logits: Any) -> np.ndarray:
    """Return what the model says: class numbers int64 [rows], or scores float64 [rows] of a regression.

    Args:
        logits: [rows, labels], or [rows, 1] of a regression; a tuple's first member is taken, as the Trainer
            gives one where the model has further outputs.

    Raises:
        ValueError: another shape, or numbers that are not finite (training that diverged).
    """
    if isinstance(logits, tuple):
        logits = logits[0]
    logits = np.asarray(logits, dtype=np.float64)
    if task.is_regression and logits.ndim == 1:
        logits = logits[:, None]  # [rows] -> [rows, 1]
    if logits.ndim != 2 or logits.shape[1] != task.num_labels:
        raise ValueError(
            f"{task.folder}: outputs of shape {list(logits.shape)}, [rows, {task.num_labels}] belong there"
        )
    broken = int((~np.isfinite(logits)).any(axis=1).sum())
    if broken:
        raise ValueError(
            f"{task.folder}: {broken:,} of {len(logits):,} outputs are not finite numbers; has "
            "training diverged?"
        )
    return logits[:, 0] if task.is_regression else logits.argmax(axis=1)


def score(task: Task, predictions: Sequence, labels: Sequence) -> dict[str, float]:
    """Return the task's metrics, each 1 at best.

    CoLA: Matthews' correlation; MRPC, QQP: accuracy and F1 of label 1; STS-B: Pearson and Spearman; else
    accuracy. A correlation with predictions that are all the same is undefined, and 0 here, as scikit-learn
    has Matthews'.

    Raises:
        ValueError: no rows, or not as many predictions as labels.
    """
    from scipy import stats
    from sklearn import metrics

    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if len(predictions) != len(labels) or not len(labels):
        raise ValueError(f"{task.folder}: {len(predictions)} predictions for {len(labels)} labels")

    def correlation(of: Callable[[np.ndarray, np.ndarray], Any]) -> float:
        if len(labels) < 2 or np.ptp(predictions) == 0 or np.ptp(labels) == 0:
            return 0.0
        return of(predictions, labels)[0]

    formulas = {
        "accuracy": lambda: (predictions == labels).mean(),
        "f1": lambda: metrics.f1_score(labels, predictions, zero_division=0),
        "matthews_correlation": lambda: metrics.matthews_corrcoef(labels, predictions),
        "pearson": lambda: correlation(stats.pearsonr),
        "spearmanr": lambda: correlation(stats.spearmanr),
    }
    return {name: float(formulas[name]()) for name in task.metrics}


def compute_metrics(task: Task) -> Callable[[Any], dict[str, float]]:
    """Return the `compute_metrics` of a `transformers.Trainer` on this task."""

    def compute(evaluation: Any) -> dict[str, float]:
        return score(task, answers(task, evaluation.predictions), evaluation.label_ids)

    return compute


def write_predictions(
    path: str | os.PathLike, task: Task, split: str, predictions: Sequence, indices: Sequence[str]
) -> None:
    """Write a test set's predictions as the leaderboard takes them: `index<TAB>prediction`, labels by name.

    path: a folder, in which the file gets the leaderboard's name, such as `MNLI-mm.tsv`. predictions: see
        `answers`.

    Raises:
        ValueError: `split` is no test set, or there are not as many predictions as rows.
        OSError: the file cannot be written.
    """
    name = task.split(split).submission
    if not name:
        raise ValueError(f"{task.folder}: {split} is no test set; there are {', '.join(task.test_splits)}")
    if len(predictions) != len(indices):
        raise ValueError(f"{task.folder} {split}: {len(predictions)} predictions for {len(indices)} rows")
    if task.is_regression:
        # The leaderboard refuses scores out of range.
        written = [f"{value:.3f}" for value in np.clip(predictions, LOWEST_SCORE, HIGHEST_SCORE)]
    else:
        written = [task.labels[int(value)] for value in predictions]
    lines = ["index\tprediction", *(f"{index}\t{value}" for index, value in zip(indices, written))]
    write_text(os.path.join(path, name), "\n".join(lines) + "\n")
