"""The part of a report about Delta-Tuning on GLUE: combinations by task, side by side, and transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dsp_plugin.records.record import Record
from dsp_plugin.reports.page import Section, figure_html
from dsp_plugin.reports.part import Outputs, ReportPart
from dsp_plugin.reports.pictures.delta import heat_png
from dsp_plugin.reports.tables.delta import (
    FROM,
    RELATIVE,
    combination_rows,
    rates_note,
    score_column,
    taken,
    transfer_rows,
)
from dsp_plugin.reports.tables.delta_runs import Run, delta_figures, runs_in
from dsp_plugin.reports.tables.diffs import mean_of
from dsp_plugin.reports.tables.rows import Row, cell_text, spread_notes

_NOTE = (
    "tunable: numbers that learn, with the task head; share: of the base's; bytes: of the task's file. Each "
    "seed's learning rate is the best of those tried on the development set. "
    "Scores: of the reloaded file."
)

# tag and examples a class: runs that stand in one table
Kind = "tuple[str, int]"


class DeltaReport(ReportPart):
    """Makes the sections of settings with Delta-Tuning; `overview` puts the tasks side by side."""

    def __init__(self, outputs: Outputs) -> None:
        super().__init__(outputs)
        self._runs: dict[str, list[Run]] = {}
        self._metrics: dict[str, str] = {}
        self._records: list[Record] = []

    def sections(
        self, stem: str, name: str, found: Sequence[tuple[Path, Record]], metric: str | None
    ) -> list[Section]:
        """Make the sections of one setting.

        Args:
            stem: how the files' names begin.
            found: records of the setting with their paths; those of other programs are left out.
            metric: its main score.

        Raises:
            ValueError: see `tables.delta.taken`.
        """
        self._runs[name], self._metrics[name] = runs_in(found), metric or ""
        records = [record for _, record in found if delta_figures(record) is not None]
        self._records += records
        kinds = _kinds(self._runs[name])
        return [self._combinations(f"{stem}-delta", kind, [name], records) for kind in kinds]

    def overview(self) -> list[Section]:
        """Put the tasks side by side, and show what a delta of one is worth on another."""
        below = []
        every = [run for runs in self._runs.values() for run in runs]
        for kind in _kinds(every):
            tasks = [name for name, runs in self._runs.items() if kind in _kinds(runs)]
            if len(tasks) > 1:
                below.append(self._combinations("delta", kind, tasks, self._records))
        begun = [run.about["method"].split(FROM)[0] for run in every if FROM in run.about["method"]]
        below += [self._transfer(method) for method in dict.fromkeys(begun)]
        return [Section("Delta-Tuning, task by task", below=below)] if below else []

    def _combinations(
        self, stem: str, kind: Kind, tasks: Sequence[str], records: Sequence[Record]
    ) -> Section:
        """Make the table of the combinations on tasks, and its picture."""
        tables = {
            name: taken(run for run in self._runs[name] if _kind(run) == kind and not _is_begun(run))
            for name in tasks
        }
        shown = [run for table in tables.values() for runs in table.values() for run in runs]
        scored = "test" if any(run.test_metrics for run in shown) else "dev"
        rows, columns = combination_rows(tables, self._metrics, (), scored)
        rows = sorted(rows, key=_order)
        title, stem = _title(kind), f"{stem}-{_title(kind).replace(' ', '-').replace(',', '')}"
        notes = [_NOTE, rates_note(tables, [row["method"] for row in rows]), *spread_notes(rows)]
        section = Section(
            f"Delta-Tuning: {title}", [self.write_table(stem, rows, columns, notes, whole=True)]
        )
        scores = [score_column(name, self._metrics[name], scored) for name in tasks]
        labels = [f"{name} {self._metrics[name]} (%)" for name in tasks]
        cells = [[_cell(row[column]) for column in scores] for row in rows]
        methods = [row["method"] for row in rows]
        caption = f"Scores on {scored}, a combination a row; the colours are from a task's lowest to highest."
        draw = partial(heat_png, cells, methods, labels)
        section.parts += self._drawn(stem, f"{', '.join(tasks)}: {title}", caption, draw, records)
        return section

    def _transfer(self, method: str) -> Section:
        """Make the matrix of relative scores of one method, and its heat map."""
        found = {name: _begun_and_scratch(runs, method) for name, runs in self._runs.items()}
        tables = {name: table for name, table in found.items() if table}
        rows, columns = transfer_rows(tables, self._metrics, method)
        note = "relative: to the score of a training from scratch, of the same seeds and examples."
        stem, title = f"delta-transfer-{method}", f"From task to task: {method}"
        notes = [note, *spread_notes(rows)]
        section = Section(title, [self.write_table(stem, rows, columns, notes, whole=True)])
        begun = rows[1:]
        cells = [[_cell(row[name + RELATIVE]) for name in tables] for row in begun]
        labels = [row["method"].partition(FROM)[2] for row in begun]
        caption = (
            "Percent of the score from scratch: by row the task that was begun with, by column the trained."
        )
        draw = partial(heat_png, cells, labels, list(tables), middle=100.0)
        section.parts += self._drawn(stem, title, caption, draw, self._records)
        return section

    def _drawn(self, stem: str, title: str, caption: str, draw: Any, records: Sequence[Record]) -> list[str]:
        path = self.folder / f"{stem}.png"
        try:
            draw(path=path, title=title)
        except ValueError as error:
            self.problems.append(f"{title}: no picture, because {error}.")
            return []
        self.files.append(path)
        return [figure_html(path, title, caption, records)]


def _kind(run: Run) -> Kind:
    return run.about["tag"] or "", run.about["num_k"] or 0


def _kinds(runs: Sequence[Run]) -> list[Kind]:
    """List the kinds of runs that begin with no other task's delta, in the order of their names."""
    return sorted({_kind(run) for run in runs if not _is_begun(run)})


def _is_begun(run: Run) -> bool:
    return FROM in run.about["method"]


def _title(kind: Kind) -> str:
    tag, k = kind
    return ", ".join(filter(None, [tag, f"{k} examples a class" if k else "all examples"]))


def _order(row: Row) -> tuple:
    """Return a sort key: all weights, none, then by the number of methods, then by name."""
    method = row["method"]
    whole = method.startswith(("full", "none"))
    return (not whole, method.count("-then-"), method.count("+"), method)


def _begun_and_scratch(runs: Sequence[Run], method: str) -> Mapping[str, Sequence[Run]]:
    """Return a task's runs that began with another one's delta, and those from scratch beside them.

    Of several tags from scratch it is the one with the most of these seeds.
    """
    begun = [run for run in runs if run.about["method"].startswith(method + FROM)]
    seeds = {run.about["seed"] for run in begun}
    examples = {run.about["num_k"] for run in begun}
    scratch: dict[Kind, list[Run]] = {}
    for run in runs:
        if run.about["method"] == method and (not begun or run.about["num_k"] in examples):
            if not begun or run.about["seed"] in seeds:
                scratch.setdefault(_kind(run), []).append(run)
    best = max(scratch.values(), key=lambda found: len({run.about["seed"] for run in found}), default=[])
    return {**taken(begun), **taken(best)}


def _cell(value: Any) -> tuple[float, str] | None:
    mean = mean_of(value)
    return None if mean is None else (mean, cell_text(value))
