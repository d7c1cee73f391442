"""The part of a report that is about DSEE: a table and pictures of each setting, beside other finetuning."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dsp_plugin.records.record import Record
from dsp_plugin.reports.intervals import differences
from dsp_plugin.reports.page import Section, figure_html
from dsp_plugin.reports.part import Outputs, ReportPart
from dsp_plugin.reports.pictures.dsee import cost_png
from dsp_plugin.reports.tables.diffs import main_column, mean_of
from dsp_plugin.reports.tables.dsee import (
    BYTES,
    INTERVALS,
    LEARNS,
    LORA,
    UNTUNED,
    compared,
    dsee_figures,
    dsee_rows,
)
from dsp_plugin.reports.tables.rows import Row, metric_column, spread_notes

_NOTE = (
    "numbers that learn: with the task head. weights left, FLOPs, ms, times as fast: of the base's, once "
    "merged, embeddings included; the range is of single pairs of runs. Scores: of the reloaded file. "
    "Full finetuning and diffs stand here by their own records, whatever the length of their trainings."
)


class DseeReport(ReportPart):
    """Makes the section of settings with DSEE.

    Args:
        records: all of the report; those of other methods are left out.
    """

    def __init__(self, outputs: Outputs, records: Sequence[Record]) -> None:
        super().__init__(outputs)
        labels = {record.method for record in compared(records)}
        self.methods = sorted(label for label in labels if not label.endswith(UNTUNED))

    def sections(
        self, stem: str, name: str, found: Sequence[tuple[Path, Record]], metric: str | None
    ) -> list[Section]:
        """Make the sections of one setting.

        Args:
            stem: how the files' names begin.
            found: records of the setting with their paths; those of other methods are left out.
            metric: its main score.

        Raises:
            ValueError: see `tables.table_rows`.
        """
        records = compared(record for _, record in found)
        subset = next((m.subset for r in records for m in r.metrics if m.name == metric), "")
        own = [entry for entry in found if dsee_figures(entry[1]) is not None]
        between, notes = differences(own, metric or "", subset, LORA)
        rows, columns = dsee_rows(records, metric or "", differences=between)
        columns = [column for column in columns if any(row[column] not in (None, "") for row in rows)]
        notes = [_NOTE, *([INTERVALS + "."] if between else []), *notes, *spread_notes(rows)]
        section = Section("DSEE", [self.write_table(f"{stem}-dsee", rows, columns, notes, whole=True)])
        score = main_column(columns, metric or "")
        for ending, cost, along in (
            ("learns", LEARNS, "numbers that learn, with the task head"),
            ("bytes", BYTES, "bytes of the task's file"),
        ):
            section.parts += self._costs(f"{stem}-dsee-{ending}", name, rows, records, (cost, along), score)
        return [section]

    def _costs(
        self,
        stem: str,
        name: str,
        rows: Sequence[Row],
        records: Sequence[Record],
        cost: tuple[str, str],
        score: str,
    ) -> list[str]:
        """Draw the score of each row against one of its costs, (column, name of the axis)."""
        column, along = cost
        points = {}
        for row in rows:
            values = _scores(records, row["method"], score)
            if mean_of(row[column]) and values:
                points[row["method"]] = (mean_of(row[column]), values)
        if len(points) < 2:
            return []
        path, title = self.folder / f"{stem}.png", f"{name}: score against {column}"
        caption = f"{score} against {along}, a mark a method."
        draw = partial(cost_png, points, along=along, measure=score, title=title, methods=self.methods)
        try:
            draw(path=path)
        except ValueError as error:
            self.problems.append(f"{title}: no picture, because {error}.")
            return []
        self.files.append(path)
        return [figure_html(path, title, caption, records)]


def _scores(records: Sequence[Record], method: str, score: str) -> list[float]:
    """Return what a method scored in the column `score`, a value a seed."""
    found = {
        record.seed: metric.value
        for record in records
        for metric in record.metrics
        if record.method == method and metric_column(metric.name, metric.subset, metric.unit) == score
    }
    return list(found.values())
