"""The pictures of one setting of a report: what there is to draw, the files, and their captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dsp_plugin.records.kept_heads import has_lost
from dsp_plugin.records.record import Record
from dsp_plugin.reports.findings import Finding
from dsp_plugin.reports.page import Section, figure_html, file_name, paragraph
from dsp_plugin.reports.pictures.curves import curve_png, curve_points
from dsp_plugin.reports.pictures.head_grids import head_grid_png
from dsp_plugin.reports.pictures.history import check_history, head_history_png
from dsp_plugin.reports.pictures.overview import overview_png
from dsp_plugin.reports.tables.rows import metric_column

_PANELS = 12  # head maps in one picture; with more of them each K has its own


class SettingPictures:
    """Draws the pictures of one setting name into a folder.

    Args:
        folder: for the PNG files.
        stem: how their names begin.
        name, records: the setting and all its records.
        baseline: the method drawn as a line across the curves.
        methods: all methods of the report: each has the same colour in every picture.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        name: str,
        records: Sequence[Record],
        baseline: str,
        methods: Sequence[str],
    ) -> None:
        self.folder, self.stem, self.name, self.records = folder, stem, name, records
        self.baseline, self.methods = baseline, methods
        self.files: list[Path] = []
        self.problems: list[str] = []

    def curves(self, metric: str | None) -> list[Section]:
        """Draw the setting's score, then the speed, against the heads kept: a picture a test set."""
        figures = []
        metrics = [metric for record in self.records for metric in record.metrics]
        for measure in [metric] * (metric is not None) + ["speed"]:
            for subset in sorted({found.subset for found in metrics if found.name == measure}):
                figures += self._curve(measure, subset)
        return [Section("Against the heads kept", figures)] if figures else []

    def overview(self, metric: str, score: str, findings: Sequence[Finding]) -> list[str]:
        """Draw what the page opens with: the score over the heads kept, and the heads of each budget's best.

        Args:
            metric: the setting's score.
            score: its column, which says on what test set and in what unit.
            findings: see `findings.head_findings`.
        """
        scored = {m.subset: m for record in self.records for m in record.metrics if m.name == metric}
        subset = next(s for s, m in scored.items() if metric_column(metric, s, m.unit) == score)
        points, total = curve_points(self.records, metric, subset)
        best = []
        for finding in findings:
            shown = (finding.row["method"], int(finding.row["K"].partition("/")[0]))
            runs = [r for r in self.records if r.heads and (r.method, r.heads["kept"]) == shown]
            scored_runs = [run for run in runs if run.metric(metric, subset)]
            best.append((shown[0], min(scored_runs, key=lambda run: run.seed or 0)))
        path = self._path("overview")
        title = f"{self.name}: {score}"
        best_heads = [(method, run.heads) for method, run in best]
        overview_png(points, total, best_heads, path, score, title, self.baseline)
        caption = (
            "Grey: all methods; blue: the best with this number of heads; dashed: "
            f"{self.baseline}. Beside: the heads that the best keep, a row a layer (first seed)."
        )
        return [figure_html(path, f"{title}, and the heads of the best", caption, [run for _, run in best])]

    def _curve(self, measure: str, subset: str) -> list[str]:
        points, total = curve_points(self.records, measure, subset)
        pruned = {name: curve for name, curve in points.items() if name != self.baseline or len(curve) > 1}
        if not pruned or sum(len(curve) for curve in points.values()) < 2:
            return []  # nothing to compare
        shown = [r for r in self.records if r.heads is not None and r.metric(measure, subset) is not None]
        unit = next((r.metric(measure, subset).unit for r in shown), "")
        label = measure + (f" ({unit})" if unit else "")
        on = f" on {subset}" if subset else ""
        path = self._path(measure, *([subset] if subset else []))
        title = f"{self.name}: {measure}{on}"
        curve_png(points, total, path, label, title, self.baseline, self.methods)
        caption = f"{label}{on} against the number of heads kept, one line a method"
        if any(len(values) > 1 for curve in points.values() for values in curve.values()):
            caption += "; bars (and the band) are the standard deviation over seeds"
        if self.baseline in points and self.baseline not in pruned:
            caption += f"; dashed: {self.baseline}"
        caption += "."
        if len(pruned) > 1:
            caption += " Points of one K stand side by side so that none hides another."
        return [figure_html(path, f"{title}, against the heads kept", caption, shown)]

    def head_maps(self) -> list[Section]:
        """Draw which heads each run keeps: a panel a run, a picture a model, or one a K if they are many."""
        runs: dict[tuple, Record] = {}
        for record in self.records:
            if record.heads is not None and any(block["num_heads"] for block in record.heads["blocks"]):
                choice = tuple(tuple(block["kept"]) for block in record.heads["blocks"])
                runs.setdefault((record.method, record.seed, _shape(record), choice), record)
        pruned = [record for record in runs.values() if has_lost(record.heads)]
        models: dict[tuple, list[Record]] = {}
        for record in sorted(pruned, key=self._place):
            models.setdefault(_shape(record), []).append(record)
        figures = []
        for number, records in enumerate(models.values()):
            groups: dict[int | None, list[Record]] = {}
            for record in records:
                groups.setdefault(record.heads["kept"] if len(records) > _PANELS else None, []).append(record)
            for kept, group in groups.items():
                figures.append(self._head_grid(group, kept, number))
        if figures or not runs:
            return [Section("Head maps", figures)] if figures else []
        return [Section("Head maps", [paragraph("Every run keeps all its heads.", "faint")])]

    def _head_grid(self, records: Sequence[Record], kept: int | None, model: int) -> str:
        ending = ([f"K{kept}"] if kept is not None else []) + ([f"model{model + 1}"] if model else [])
        path = self._path("heads", *ending)
        title = f"{self.name}: heads kept" + (f", K = {kept}" if kept is not None else "")
        panels = []
        for record in records:
            seed = "" if record.seed is None else f", seed {record.seed}"
            panels.append((f"{record.method}\nK = {record.heads['kept']}{seed}", record.heads))
        head_grid_png(panels, path, title)
        caption = (
            "Which heads each run keeps: a panel a run, a row a layer (numbered from 0, grouped by the kind "
            "of attention), a square a head. Models trained from different seeds do not share the meaning of "
            "a head's number."
        )
        return figure_html(path, title, caption, records)

    def histories(self) -> list[Section]:
        """Draw the kept heads over training where they were noted, of the first seed of each method and K."""
        figures, seen = [], set()
        with_history = [r for r in self.records if r.heads is not None and r.extra.get("history")]
        for record in sorted(with_history, key=self._place):
            seed = "" if record.seed is None else f", seed {record.seed}"
            what = f"{record.method}, K = {record.heads['kept']}{seed}"
            try:
                entries = check_history(record.heads, record.extra["history"])
            except ValueError as error:
                self.problems.append(f"{self.name}: {what}: no picture over training, because {error}.")
                continue
            key = (record.method, record.heads["kept"])
            if key in seen or all(all(keep) for _, keep in entries):
                continue
            seen.add(key)
            path = self._path("training", record.method, f"K{record.heads['kept']}")
            head_history_png(record.heads, record.extra["history"], path, f"{self.name}: {what}")
            caption = (
                f"Heads that {what} would keep at each of {len(entries)} moments of its training: a row a "
                "head, grouped by layer; below, how many they are."
            )
            figures.append(figure_html(path, f"{self.name}: heads over training, {what}", caption, [record]))
        return [Section("Over training", figures)] if figures else []

    def _place(self, record: Record) -> tuple:
        """Return a sort key: most heads first, then by method and seed."""
        method = self.methods.index(record.method)
        return (-record.heads["kept"], method, record.seed is not None, record.seed)

    def _path(self, *parts: str) -> Path:
        path = self.folder / f"{'-'.join([self.stem, *map(file_name, parts)])}.png"
        while path in self.files:  # names that differ only by signs that no file name has
            path = path.with_name(f"{path.stem}-2.png")
        self.files.append(path)
        return path


def _shape(record: Record) -> tuple:
    """Return what tells models apart: the names, kinds and sizes of their blocks."""
    return tuple((block["name"], block["kind"], block["num_heads"]) for block in record.heads["blocks"])
