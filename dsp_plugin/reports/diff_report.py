"""The part of a report that is about sparse diffs: tables and pictures of each setting, and side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from dsp_plugin.records.record import Record
from dsp_plugin.reports.findings import diff_findings, sentences
from dsp_plugin.reports.page import Section, figure_html, list_html
from dsp_plugin.reports.part import Outputs, ReportPart
from dsp_plugin.reports.pictures.bars import comparison_png
from dsp_plugin.reports.pictures.diffs import Points, density_png, share_png
from dsp_plugin.reports.tables.diffs import (
    FULL,
    LAST_LAYER,
    across_rows,
    diff_figures,
    diff_rows,
    main_column,
    mean_of,
    method_order,
    read_method,
)
from dsp_plugin.reports.tables.rows import Row, metric_column, spread_notes, table_rows

_NOTE = (
    "density: share of the weights, without the task head, that may differ from the base. "
    "Scores: of the reloaded file."
)
_UNTOUCHED = "Tensors without a single change (all-zero groups)."


class DiffReport(ReportPart):
    """Makes the sections of settings with diffs; `overview` puts those of one base side by side.

    Args:
        records: all of the report; those of no diff are left out.
    """

    def __init__(self, outputs: Outputs, records: Sequence[Record]) -> None:
        super().__init__(outputs)
        self.methods = sorted(
            {read_method(record.method).method for record in records if diff_figures(record) is not None}
        )
        self.found: dict[str, list[str]] = {}  # setting -> what the page opens with, as HTML
        self._tables: dict[str, Sequence[Row]] = {}
        self._scores: dict[str, str] = {}
        self._records: dict[str, Sequence[Record]] = {}

    def sections(self, stem: str, name: str, records: Sequence[Record], metric: str | None) -> list[Section]:
        """Make the sections of one setting.

        Args:
            stem: how the files' names begin.
            records: of the setting; those of no diff are left out.
            metric: its main score.

        Raises:
            ValueError: see `tables.table_rows`.
        """
        # finetuned by another program
        full = [record for record in records if record.method == FULL and diff_figures(record) is None]
        records = [record for record in records if diff_figures(record) is not None]
        rows, columns = diff_rows(records, metric or "")
        columns = [column for column in columns if any(row[column] not in (None, "") for row in rows)]
        score = main_column(columns, metric or "")
        self._tables[name], self._scores[name], self._records[name] = rows, score, records
        notes = [_NOTE, *spread_notes(rows)]
        below = [Section("Sparse diffs", [self.write_table(f"{stem}-diffs", rows, columns, notes)])]
        density = self._density(f"{stem}-density", name, _points(records, score), score, records)
        findings = diff_findings(rows, score)
        if findings:
            said = sentences(findings, [*rows, *table_rows(full)[0]], score, FULL)
            self.found[name] = [list_html(said), *density]
        else:
            below[0].parts += density
        below[0].parts += self._sizes(f"{stem}-sizes", name, rows, records)
        packs = [(record.method, record) for record in _last_stage(records)]
        below[0].parts += self._shares(f"{stem}-layers", f"{name}: non-zeros by layer", packs)
        return below

    def overview(self) -> list[Section]:
        """Put the settings of each base side by side, where there are several of one base."""
        bases: dict[int, list[str]] = {}
        for name, records in self._records.items():
            bases.setdefault(diff_figures(records[0]).get("total", 0), []).append(name)
        groups = [names for names in bases.values() if len(names) > 1]
        stems = ("diffs" if n == 1 else f"diffs-{n}" for n in range(1, len(groups) + 1))
        return [self._overview(stem, names) for stem, names in zip(stems, groups)]

    def _overview(self, stem: str, names: Sequence[str]) -> Section:
        tables = {name: self._tables[name] for name in names}
        glue = [name for name in names if all(r.kind.startswith("glue") for r in self._records[name])]
        glue = glue if len(glue) > 1 else []
        rows, columns = across_rows(tables, self._scores, glue)
        columns = [column for column in columns if any(row[column] is not None for row in rows)]
        notes = [_NOTE, *spread_notes(rows)]
        notes += [f"average: of {', '.join(glue)}, where all of them are measured."] if glue else []
        table = self.write_table(stem, rows, columns, notes, whole=True)
        section = Section(f"Sparse diffs: {', '.join(names)}", [table])
        average = next((column for column in columns if column.startswith("average")), "")
        averages: dict[str, dict[float, list[float]]] = {}
        for row in rows:
            if average and row[average] is not None:
                density = float(row["density"].rstrip("%")) / 100
                averages.setdefault(row["method"], {})[density] = [row[average]]
        records = [record for name in glue for record in self._records[name]]
        section.parts += self._density(f"{stem}-density", average, averages, average, records)
        untouched = {name: _untouched(rows) for name, rows in tables.items()}
        cells, columns = across_rows(tables, untouched)
        if any(row[name] is not None for row in cells for name in untouched):
            table = self.write_table(f"{stem}-untouched", cells, columns, [_UNTOUCHED], whole=True)
            section.parts.append(table)
        by_method: dict[str, list[tuple[str, Record]]] = {}
        seen: set[str] = set()
        for name in names:
            for record in _last_stage(self._records[name]):
                fingerprint = diff_figures(record).get("fingerprint")
                # one pack can be scored as several settings
                if fingerprint is None or fingerprint not in seen:
                    by_method.setdefault(record.method, []).append((name, record))
                seen.add(fingerprint or "")
        structured = [method for method in by_method if method.startswith("diff-structured")]
        for method in structured or by_method:  # the settings' own pictures have the other methods
            packs = by_method[method]
            if len(packs) > 1:
                title = f"{method}: non-zeros by layer and task"
                section.parts += self._shares(f"{stem}-layers-{method.rstrip('%')}", title, packs)
        section.parts += self._storage(f"{stem}-storage", by_method)
        return section

    def _density(
        self, stem: str, name: str, points: Points, score: str, records: Sequence[Record]
    ) -> list[str]:
        if sum(len(curve) for curve in points.values()) < 2 or not set(points) - {FULL, LAST_LAYER}:
            return []
        title = f"{name}: score against density"
        caption = f"{score} against the density, one line a method; "
        caption += "across: full finetuning and the task head alone"
        several = any(len(values) > 1 for curve in points.values() for values in curve.values())
        caption += "; bars and bands are the standard deviation over seeds." if several else "."
        draw = partial(density_png, points, measure=score, title=title, methods=self.methods)
        return self._figure(stem, title, caption, records, draw)

    def _sizes(self, stem: str, name: str, rows: Sequence[Row], records: Sequence[Record]) -> list[str]:
        untouched = _untouched(rows)
        shown = [row for row in rows if mean_of(row["bytes"]) is not None]
        shown.sort(key=lambda row: row["method"] != FULL)
        if len(shown) < 2:
            return []
        labels = [_label(row) for row in shown]
        measures = {"file (kB)": [mean_of(row["bytes"]) / 1000 for row in shown]}
        measures[untouched] = [mean_of(row[untouched]) for row in shown]
        title = f"{name}: size of a task, and tensors it leaves as they are"
        caption = "The task's file beside a full copy of the weights, and tensors without a single change "
        caption += "(all-zero groups)."
        draw = partial(comparison_png, labels, measures, title=title)
        return self._figure(stem, title, caption, records, draw)

    def _shares(self, stem: str, title: str, packs: Sequence[tuple[str, Record]]) -> list[str]:
        layered = [
            (label, record)
            for label, record in packs
            if diff_figures(record).get("layers") and diff_figures(record).get("nonzeros")
        ]
        if not layered:
            return []
        records = [record for _, record in layered]
        seeds = sorted({record.seed for record in records if record.seed is not None})
        caption = "Share of a pack's non-zeros that lies in each layer; the first row is the layer's share "
        caption += "of all weights."
        caption += f" Seed {', '.join(map(str, seeds))}." if seeds else ""
        content = [(label, diff_figures(record)["layers"]) for label, record in layered]
        draw = partial(share_png, content, title=title)
        return self._figure(stem, title, caption, records, draw)

    def _storage(self, stem: str, by_method: Mapping[str, Sequence[tuple[str, Record]]]) -> list[str]:
        """Compare N tasks as so many full copies with one base and a pack each."""
        records = [record for packs in by_method.values() for _, record in packs]
        copy = max((diff_figures(record).get("full_bytes") or 0 for record in records), default=0)
        counts = [len(packs) for method, packs in by_method.items() if method not in (FULL, LAST_LAYER)]
        tasks = max(counts, default=0)
        sums = {
            method: sum(diff_figures(record)["bytes"] for _, record in packs)
            for method, packs in by_method.items()
            if method != FULL
            and len(packs) == tasks
            and all(diff_figures(record).get("bytes") for _, record in packs)
        }
        if not copy or tasks < 2 or not sums:
            return []
        labels = [f"{tasks} full copies", *(f"the base and {method}" for method in sums)]
        measures = {"MB": [tasks * copy / 1e6, *((copy + size) / 1e6 for size in sums.values())]}
        measures["kB a further task"] = [copy / 1e3, *(size / tasks / 1e3 for size in sums.values())]
        title = f"Storage of {tasks} tasks"
        caption = f"{tasks} tasks on disk as full copies of the model, or as one base and a pack a task."
        draw = partial(comparison_png, labels, measures, title=title)
        return self._figure(stem, title, caption, records, draw)

    def _figure(
        self, stem: str, title: str, caption: str, records: Sequence[Record], draw: Callable[..., None]
    ) -> list[str]:
        path = self.folder / f"{stem}.png"
        try:
            draw(path=path)
        except ValueError as error:
            self.problems.append(f"{title}: no picture, because {error}.")
            return []
        self.files.append(path)
        return [figure_html(path, title, caption, records)]


def _label(row: Row) -> str:
    return row["method"] if row["method"] in (FULL, LAST_LAYER) else f"{row['method']} {row['density']}"


def _untouched(rows: Sequence[Row]) -> str:
    """Return the column of untouched tensors, whose name says of how many."""
    return next((column for column in (rows[0] if rows else ()) if column.startswith("untouched")), "")


def _points(records: Sequence[Record], score: str) -> dict[str, dict[float, list[float]]]:
    """Map method to density to what the last stage scored in the column `score`, a value a seed."""
    found: dict[str, dict[float, dict[int | None, float]]] = {}
    for record in records:
        kind = read_method(record.method)
        for metric in record.metrics if kind.percent is not None and not kind.stage else ():
            if metric_column(metric.name, metric.subset, metric.unit) == score:
                curve = found.setdefault(kind.method, {})
                curve.setdefault(kind.percent / 100, {})[record.seed] = metric.value
    return {m: {d: list(seeds.values()) for d, seeds in curve.items()} for m, curve in found.items()}


def _last_stage(records: Sequence[Record]) -> list[Record]:
    """Return one record a finished pack: the first seed's, scored."""
    found: dict[str, Record] = {}
    for record in sorted(records, key=lambda r: (r.seed is not None, r.seed or 0, not r.metrics)):
        if not read_method(record.method).stage:
            found.setdefault(record.method, record)
    return [found[method] for method in sorted(found, key=method_order)]
