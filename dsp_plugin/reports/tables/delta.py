"""Tables of Delta-Tuning in the layout of the paper (Ding et al., Nature Machine Intelligence 2023): a
combination a row, a task a column; orders of stages; what a delta of one task is worth on another.

They are made of runs (`delta_runs`): of each method and seed the one whose rate is best on dev.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dsp_plugin.reports.tables.delta_runs import Run, chosen
from dsp_plugin.reports.tables.rows import Row, Spread, metric_column, spread

METHODS = ("prompt", "bias", "adapter")
THEN, FROM = "-then-", "-from-"
TUNABLE, SHARE, BYTES = "tunable", "share (%)", "bytes"
RELATIVE = ", relative (%)"

Taken = Mapping[str, Sequence[Run]]
"""Method -> its runs, one a seed."""


def taken(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Take each method's and seed's best run by dev.

    Raises:
        ValueError: see `delta_runs.chosen`; or runs of one method that differ in more than rate and seed.
    """
    found: dict[str, list[Run]] = {}
    for row in chosen(runs):
        if row.method in found:
            what = "model, template, tag or examples a class"
            raise ValueError(f"{row.task}, {row.method}: runs that differ in {what} are no rows of one table")
        found[row.method] = list(row.runs)
    return found


def combination_rows(
    tables: Mapping[str, Taken],
    metrics: Mapping[str, str],
    expected: Sequence[str] = (),
    scored: str = "test",
    seeds: Mapping[str, int] = {},
) -> tuple[list[Row], list[str]]:
    """Make the rows of the combinations, with the average over tasks where there are several.

    Args:
        tables: task -> its runs, see `taken`.
        metrics: task -> the score that is shown.
        expected: methods that the table should have, in this order; others follow by name.
        scored: "test", or "dev" where nothing else has labels.
        seeds: task -> how many runs a method should have; then the column "runs" says "1 of 3".

    Returns:
        rows and the names of their columns. A number is None where it was not measured.
    """
    found = {method for table in tables.values() for method in table}
    shown = {task: score_column(task, metrics[task], scored) for task in tables}
    rows = []
    for method in [*expected, *sorted(found - {*expected})]:
        scores = {
            task: spread(_scores(table.get(method, ()), metrics[task], scored))
            for task, table in tables.items()
        }
        runs = [run for table in tables.values() for run in table.get(method, ())]
        row = {"method": method, **marks(method), **costs(runs)}
        row |= {shown[task]: score for task, score in scores.items()}
        if len(tables) > 1:
            row["average"] = average(scores.values())
        row["runs"] = f"{len(runs)} of {_wanted(method, seeds)}" if seeds else len(runs)
        rows.append(row)
    return rows, list(rows[0]) if rows else ["method"]


def order_rows(
    found: Taken, orders: Iterable[Sequence[str]], metric: str, scored: str = "test"
) -> tuple[list[Row], list[str]]:
    """Make a row of each order of stages: the score after each of them.

    Args:
        found: method -> runs, where `prompt-then-bias` is two stages.
        orders: the methods in the order of their stages.
    """
    rows = []
    for order in orders:
        runs = found.get(THEN.join(order), ())
        row: dict[str, Any] = {"method": THEN.join(order)}
        for number in range(1, len(order) + 1):
            stage = found.get(THEN.join(order[:number]), ())
            row[f"{metric} after stage {number}"] = spread(_scores(stage, metric, scored))
        rows.append({**row, **costs(runs), "runs": len(runs)})
    return rows, list(rows[0]) if rows else ["method"]


def transfer_rows(
    tables: Mapping[str, Taken], metrics: Mapping[str, str], method: str, scored: str = "test"
) -> tuple[list[Row], list[str]]:
    """Make a row of each task whose delta the training on another one began with.

    The first row is a training from scratch; a relative score is the share of that one's, of the means.

    Args:
        tables: task that is trained on -> its runs, `method` and `method-from-TASK`.

    Returns:
        rows and columns. A relative score is empty on the task itself, and where scratch is not above 0.
    """
    rows = []
    for origin in (None, *tables):
        row: dict[str, Any] = {"method": method if origin is None else f"{method}{FROM}{origin}"}
        relative: dict[str, Any] = {}
        for task, table in tables.items():
            same = origin == task
            score = spread(_scores(table.get(row["method"], ()), metrics[task], scored))
            scratch = _mean(spread(_scores(table.get(method, ()), metrics[task], scored)))
            row[score_column(task, metrics[task], scored)] = "" if same else score
            relative[task + RELATIVE] = "" if same else relative_score(_mean(score), scratch)
        rows.append({**row, **relative})
    return rows, list(rows[0])


def relative_score(score: float | None, scratch: float | None) -> float | str | None:
    """Return 100 · score / scratch; None where one was not measured, empty where scratch is not above 0."""
    if score is None or scratch is None:
        return None
    return 100 * score / scratch if scratch > 0 else ""


def rates_note(tables: Mapping[str, Taken], expected: Sequence[str] = ()) -> str:
    """Say which learning rates were taken, by task and method, the expected ones first."""
    parts = []
    for task, table in tables.items():
        found = {
            method: sorted({run.about["learning_rate"] for run in runs} - {None})
            for method, runs in sorted(table.items(), key=lambda item: [*expected, item[0]].index(item[0]))
        }
        listed = [
            f"{method} {' and '.join(f'{rate:g}' for rate in rates)}"
            for method, rates in found.items()
            if rates
        ]
        parts += [f"{task}: {', '.join(listed)}"] if listed else []
    return f"learning rates: {'; '.join(parts)}" if parts else ""


def score_column(task: str, metric: str, scored: str) -> str:
    """Name the column of a task's score."""
    return metric_column(f"{task} {metric}", scored, "%")


def marks(method: str) -> dict[str, str]:
    """Return the cells that say which of the three methods are in a combination."""
    parts = method.split(FROM)[0].replace(THEN, "+").split("+")
    return {name: "+" if name in parts else "" for name in METHODS}


def costs(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the cells of numbers that learn, their share of the base, and the bytes of the file.

    Where all weights learn there is no file but a whole model; where none do, none is needed.
    """
    if not runs:
        return dict.fromkeys((TUNABLE, SHARE, BYTES))
    figures = runs[0].figures
    if "added" in figures:
        added = [run.figures["added"] + run.figures["task_head"] for run in runs]
        share = [100 * one / run.figures["base"] for one, run in zip(added, runs)]
        sizes = [run.figures.get("bytes") for run in runs]
        return {TUNABLE: spread(added), SHARE: statistics.fmean(share), BYTES: _middle(sizes)}
    if figures.get("learning_rate") is None:
        return {TUNABLE: 0, SHARE: 0.0, BYTES: 0}
    return {TUNABLE: runs[0].parameters, SHARE: 100.0, BYTES: "a model"}


def average(cells: Iterable[Any]) -> float | None:
    """Return the mean of the means; None where one was not measured."""
    means = [_mean(cell) for cell in cells]
    return None if None in means else statistics.fmean(means)


def _middle(sizes: Sequence[int | None]) -> int | None:
    """Return the median of files' sizes, which differ in what they say of their task."""
    known = [size for size in sizes if size is not None]
    return int(statistics.median(known)) if known else None


def _scores(runs: Sequence[Run], metric: str, scored: str) -> list[float]:
    found = [run.test_metrics if scored == "test" else run.dev_metrics for run in runs]
    return [one[metric] for one in found if metric in one]


def _mean(cell: Any) -> float | None:
    return cell.mean if isinstance(cell, Spread) else cell


def _wanted(method: str, seeds: Mapping[str, int]) -> int:
    return sum(1 if method == "none" else count for count in seeds.values())
