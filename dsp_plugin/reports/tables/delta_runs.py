"""From the records of many runs to one table: the learning rate by the development set, never by the test.

Of the runs of a task, a method and a seed the one with the best score on dev is taken. Means and standard
deviations (of a sample) are over the seeds. Stages that others follow have rows of their own.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsp_plugin.options.errors import OptionError
from dsp_plugin.records.record import Record, find_records

FIELDS = ("task", "method", "tag", "few_shot_type", "seed", "num_k", "model", "learning_rate", "template")
"""What a condition can be about."""


@dataclass
class Run:
    """What one run has scored.

    Attributes:
        about: FIELDS -> value. folder: of the run.
        dev: the task's main metric on the development set, in percent. dev_metrics, test_metrics: metric ->
            value; MNLI's mismatched sets end in "_mm".
        figures: of its deltas, as the records have them. parameters: of the model that was scored.
    """

    about: dict[str, Any]
    folder: str = ""
    dev: float = math.nan
    dev_metrics: dict[str, float] = field(default_factory=dict)
    test_metrics: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    parameters: int | None = None


@dataclass(frozen=True)
class Row:
    """One method on one task.

    Attributes:
        runs: the ones taken, one a seed, in the order of seeds. rates: how many rates each was taken of.
        scored: "test", or "dev" where no run has a labelled test set.
        means, deviations: metric -> value; no deviation of one seed.
    """

    task: str
    method: str
    tag: str
    runs: tuple[Run, ...]
    rates: tuple[int, ...]
    scored: str
    means: dict[str, float]
    deviations: dict[str, float]


def delta_figures(record: Record) -> Mapping[str, Any] | None:
    """Return what a record says of Delta-Tuning on a GLUE task; None if it is of something else."""
    figures = record.extra.get("delta")
    return figures if record.kind.startswith("glue-") and isinstance(figures, dict) else None


def read_runs(folder: str | os.PathLike) -> list[Run]:
    """Read the runs of Delta-Tuning's program below a folder.

    Raises:
        FileNotFoundError: no such folder.
    """
    return runs_in(find_records(folder))


def runs_in(records: Iterable[tuple[Path, Record]]) -> list[Run]:
    """Join records, with their paths, to runs; those of other programs are left out."""
    found: dict[Path, Run] = {}
    for path, record in records:
        if record.kind != "glue-score" or delta_figures(record) is None:
            continue
        run = found.setdefault(
            path.parents[1], Run(_about(record), str(path.parents[1]), figures=record.extra["delta"])
        )
        run.parameters = (record.parameters or {}).get("after")
        split = path.parent.name
        ending = "_mm" if split.endswith("_mismatched") else ""
        scores = {f"{metric.name}{ending}": metric.value for metric in record.metrics}
        (run.test_metrics if split.startswith("test") else run.dev_metrics).update(scores)
        if split in ("dev", "dev_matched"):
            run.dev = scores.get(record.extra["main_metric"], math.nan)
    return list(found.values())


def chosen(runs: Iterable[Run], condition: Mapping[str, Any] = {}) -> list[Row]:
    """Take each seed's best run by dev, and average over the seeds.

    Args:
        condition: FIELDS -> the value that is wanted.

    Returns:
        rows by task, tag, method, model, template and examples a class.

    Raises:
        OptionError: of `condition`: an unknown field.
        ValueError: two runs of one rate and seed with other scores: what they differ in is no rate.
    """
    unknown = sorted({*condition} - {*FIELDS})
    if unknown:
        raise OptionError("condition", f"has {unknown[0]!r}: there are {', '.join(FIELDS)}")
    groups: dict[tuple[Any, ...], dict[Any, list[Run]]] = {}
    for run in runs:
        about = run.about
        if any(not _same(about[name], value) for name, value in condition.items()):
            continue
        key = tuple(about[name] or "" for name in ("task", "tag", "method", "model", "template"))
        key += (about["num_k"] or 0,)
        groups.setdefault(key, {}).setdefault(about["seed"], []).append(run)
    return [_row(key, seeds) for key, seeds in sorted(groups.items())]


def _row(key: tuple[Any, ...], seeds: Mapping[Any, Sequence[Run]]) -> Row:
    ordered = [_of_rates(seeds[seed]) for seed in sorted(seeds, key=lambda seed: (seed is None, seed))]
    taken = [best_by_dev(runs) for runs in ordered]
    scored = "test" if all(run.test_metrics for run in taken) else "dev"
    found = [run.test_metrics if scored == "test" else run.dev_metrics for run in taken]
    values = {name: [one[name] for one in found] for name in found[0] if all(name in one for one in found)}
    return Row(
        key[0],
        key[2],
        key[1],
        tuple(taken),
        tuple(map(len, ordered)),
        scored,
        {name: statistics.fmean(numbers) for name, numbers in values.items()},
        {name: statistics.stdev(numbers) for name, numbers in values.items() if len(numbers) > 1},
    )


def _of_rates(runs: Sequence[Run]) -> list[Run]:
    """Return one run a learning rate: the development set chooses among rates, and among nothing else."""
    found: dict[Any, Run] = {}
    named = ", ".join(str(runs[0].about[name]) for name in ("task", "method"))
    named += f", seed {runs[0].about['seed']}"
    for run in runs:
        rate = run.about["learning_rate"]
        same = found.setdefault(rate, run)
        if (same.dev_metrics, same.test_metrics) != (run.dev_metrics, run.test_metrics):
            raise ValueError(
                f"{named}, rate {rate}: {same.folder} and {run.folder} have other scores, so they differ in "
                "more than the rate: give them tags of their own, or gather one of both folders"
            )
    if len(found) > 1 and all(math.isnan(run.dev) for run in found.values()):
        reason = f"{len(found)} learning rates, and none has a score on dev to be taken by"
        raise ValueError(f"{named}: {reason} ({runs[0].folder})")
    return list(found.values())


def best_by_dev(runs: Sequence[Run]) -> Run:
    """Return the run with the best score on dev; of equal ones that with the smallest learning rate."""

    def rank(run: Run) -> tuple[float, float]:
        return (-math.inf if math.isnan(run.dev) else run.dev, -(run.about["learning_rate"] or 0.0))

    return max(runs, key=rank)


def cells(row: Row) -> dict[str, Any]:
    """Return a row's cells, by their headings."""
    found: dict[str, Any] = {"task": row.task, "tag": row.tag, "method": row.method, "set": row.scored}
    for name, mean in row.means.items():
        deviation = row.deviations.get(name)
        found[name] = f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"
    figures = row.runs[0].figures
    rates = [run.about["learning_rate"] for run in row.runs if run.about["learning_rate"] is not None]
    added = figures.get("added")
    found |= {
        "k": row.runs[0].about.get("num_k") or "",
        "seeds": len(row.runs),
        "rates": " ".join(f"{rate:g}" for rate in rates),
        "of": max(row.rates),
        "tunable": "" if added is None else f"{added + figures.get('task_head', 0):,}",
        "share": "" if added is None else f"{100 * (added + figures['task_head']) / figures['base']:.3f} %",
        "bytes": "" if "bytes" not in figures else f"{figures['bytes']:,}",
        "template": row.runs[0].about["template"] or "",
    }
    return found


def _about(record: Record) -> dict[str, Any]:
    delta = record.extra["delta"]
    done, whole = len(delta.get("stages") or ()), delta.get("of_stages") or 0
    stage = f" (stage {done} of {whole})" if done < whole else ""
    own = {name: delta.get(name) for name in ("tag", "few_shot_type", "num_k", "learning_rate", "template")}
    return {
        **own,
        "task": record.name,
        "method": f"{record.method}{stage}",
        "seed": record.seed,
        "model": record.extra.get("model"),
    }


def _same(mine: Any, wanted: Any) -> bool:
    if isinstance(mine, str) and isinstance(wanted, str):
        return _folded(mine) == _folded(wanted)
    return mine == wanted


def _folded(text: str) -> str:
    return text.lower().replace("-", "").replace("_", "")
