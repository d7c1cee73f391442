"""A report from result records: tables, pictures and one HTML page that opens without a network."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsp_plugin.options.errors import OptionError
from dsp_plugin.records.files.whole import check_folder, write_text
from dsp_plugin.records.record import Record, find_records
from dsp_plugin.reports.delta_report import DeltaReport
from dsp_plugin.reports.diff_report import DiffReport
from dsp_plugin.reports.dsee_report import DseeReport
from dsp_plugin.reports.findings import CAVEAT, head_findings, sentences
from dsp_plugin.reports.page import (
    Section,
    code_block,
    file_name,
    folded,
    list_html,
    notes_html,
    page_html,
    paragraph,
    record_html,
    surroundings_of,
    table_html,
)
from dsp_plugin.reports.part import Outputs
from dsp_plugin.reports.setting_pictures import SettingPictures
from dsp_plugin.reports.significance import SAMPLES, Comparison, compare_with_baseline, largest_p
from dsp_plugin.reports.tables.delta_runs import delta_figures
from dsp_plugin.reports.tables.diffs import diff_figures, main_column
from dsp_plugin.reports.tables.dsee import dsee_figures
from dsp_plugin.reports.tables.rows import (
    Row,
    csv_table,
    latex_table,
    markdown_table,
    signature_notes,
    spread_notes,
    table_rows,
)
from dsp_plugin.reports.tables.short import short_table

BASELINE = "unpruned"
_WIDE = 6  # more measures than this of a single run are shown one below the other

Found = Sequence["tuple[Path, Record]"]


@dataclass(frozen=True)
class Report:
    """A report that was made: its numbers of records and settings, its files, and what could not be shown."""

    records: int
    settings: int
    files: list[Path]
    problems: list[str]


def make_report(
    results: str | os.PathLike,
    out: str | os.PathLike,
    only: Sequence[str] = (),
    baseline: str | None = None,
    command: str = "",
) -> Report:
    """Write index.html, tables/ (Markdown, CSV, LaTeX) and pictures/ (PNG) to the folder `out`.

    Each file is written whole or not at all, index.html last. Other files in `out` are left alone.

    Args:
        results: folder of records, searched with all folders below it.
        out: folder, made if it is missing.
        only: names of settings; empty means all.
        baseline: the method to compare with (default "unpruned", where there is one).
        command: the command line that asked for this report, shown in it.

    Raises:
        FileNotFoundError: no folder `results`.
        ValueError: no records in it, `out` is a file, no such setting, no such baseline.
        OSError: a file cannot be written.
    """
    check_folder("out", out)
    found = find_records(results)
    if not found:
        where = "they are the results.json of trainings and scorings"
        raise ValueError(f"no result records in {results}: {where}")
    names = sorted({record.name for _, record in found})
    unknown = sorted(set(only) - set(names))
    if unknown:
        raise OptionError("only", f"{' '.join(unknown)}: no such setting; there are: {', '.join(names)}")
    found = [(path, record) for path, record in found if not only or record.name in only]
    methods = sorted({record.method for _, record in found})
    if baseline is not None and baseline not in methods:
        raise OptionError("baseline", f"{baseline}: no such method; there are: {', '.join(methods)}")
    writer = _Writer(Path(out), found, baseline or BASELINE)
    names = [name for name in names if not only or name in only]
    details = [writer.section(name) for name in names]
    sections = [writer.opening(names), *details, *writer.diffs.overview(), *writer.delta.overview()]
    made = [code_block(command)] if command else []
    made.append(folded("versions and devices", [notes_html(surroundings_of(record for _, record in found))]))
    sections += [Section("How this report was made", made), _all_records(found, Path(results))]
    lead = [paragraph(f"{_count(len(found), 'record')} of {_count(len(names), 'setting')}.")]
    lead += [paragraph(problem, "warning") for problem in writer.problems]
    writer.write("index.html", page_html("Report of results", lead, sections))
    return Report(len(found), len(names), writer.files, writer.problems)


class _Writer:
    """Writes the files of one report and makes the sections of its page."""

    def __init__(self, out: Path, found: Found, baseline: str) -> None:
        self.out, self.found, self.baseline = out, found, baseline
        self.files: list[Path] = []
        self.problems: list[str] = []
        # each has one colour in all pictures; what has no heads is in none of them
        self.methods = sorted({r.method for _, r in found if r.heads is not None and _is_of_heads(r)})
        records = [record for _, record in found]
        outputs = Outputs(out / "pictures", self.tables, self.files, self.problems)
        self.diffs = DiffReport(outputs, records)
        self.dsee = DseeReport(outputs, records)
        self.delta = DeltaReport(outputs)
        self._found: dict[str, list[str]] = {}  # setting -> what the page opens with, as HTML
        self._taken: Counter[str] = Counter()

    def write(self, name: str, text: str) -> None:
        write_text(self.out / name, text)
        self.files.append(self.out / name)

    def tables(
        self,
        stem: str,
        rows: Sequence[Row],
        columns: Sequence[str],
        notes: Sequence[str],
        whole: bool = False,
    ) -> str:
        """Write a table's files, and return it as HTML.

        Markdown, LaTeX and the page have its short form (`tables.short`) unless `whole`; CSV and a fold all.
        """
        short = (rows, columns) if whole else short_table(rows, columns)
        self.write(f"tables/{stem}.md", markdown_table(*short) + "\n\n" + "\n".join(notes) + "\n")
        self.write(f"tables/{stem}.csv", csv_table(rows, columns))
        self.write(f"tables/{stem}.tex", latex_table(*short))
        html = table_html(*short) + notes_html(notes)
        if short == (rows, columns):
            return html
        return html + folded("every row and column, steps of sweeps too", [table_html(rows, columns)])

    def opening(self, names: Sequence[str]) -> Section:
        """Make the section of what was found in these settings, which have had their sections made."""
        below = [Section(name, self._found[name]) for name in names if name in self._found]
        others = [name for name in names if name not in self._found]
        parts = [paragraph(CAVEAT, "faint")] if below else []
        if others:
            parts.append(paragraph(f"Nothing to compare by budget: {', '.join(others)}.", "faint"))
        return Section("What was found", parts, below)

    def section(self, name: str) -> Section:
        """Show all of a setting: what is about heads and scores, then sparse diffs, DSEE, Delta-Tuning."""
        found = [(path, record) for path, record in self.found if record.name == name]
        records = [record for _, record in found]
        self._taken[file_name(name).lower()] += 1
        again = self._taken[file_name(name).lower()]  # two names can differ by signs that no file name has
        stem = file_name(name) + (f"-{again}" if again > 1 else "")
        section = Section(name, [paragraph(_summary(records), "faint")])
        try:
            others = [(path, record) for path, record in found if _is_of_heads(record)]
            if others:
                section.below += self._section(name, stem, others)
            if any(diff_figures(record) is not None for record in records):
                section.below += self.diffs.sections(stem, name, records, main_metric(records))
                self._found.setdefault(name, []).extend(self.diffs.found.get(name, []))
            if any(dsee_figures(record) is not None for record in records):
                section.below += self.dsee.sections(stem, name, found, main_metric(records))
            if any(delta_figures(record) is not None for record in records):
                section.below += self.delta.sections(stem, name, found, main_metric(records))
        except ValueError as error:  # the rest of the report is as good as ever
            self.problems.append(f"{name}: no table and no pictures, because {error}.")
            section.parts.append(paragraph(self.problems[-1], "warning"))
        return section

    def _section(self, name: str, stem: str, found: Found) -> list[Section]:
        records = [record for _, record in found]
        metric = main_metric(records)
        comparisons = compare_with_baseline(found, metric, self.baseline) if metric else []
        rows, columns = table_rows(records, p_values=largest_p(comparisons))
        columns = [column for column in columns if any(row.get(column) is not None for row in rows)]
        score = main_column(columns, metric or "")
        findings = head_findings(short_table(rows, columns)[0], score, self.baseline)
        notes = signature_notes(records)
        measures = sum(len(record.metrics) for record in records)
        if len(rows) == 1 and records[0].heads is None and measures > _WIDE:
            rows, columns = _measures(records)
            comparisons = []
        notes += self._significance_note(comparisons)
        notes += spread_notes(rows)
        table = Section("Table", [self.tables(stem, rows, columns, notes)])
        if comparisons:
            one_by_one = table_html(*_comparison_rows(comparisons, self.baseline))
            table.parts.append(folded(f"each run beside {self.baseline}", [one_by_one]))
        drawer = SettingPictures(self.out / "pictures", stem, name, records, self.baseline, self.methods)
        if findings:
            said = list_html(sentences(findings, rows, score, self.baseline))
            self._found[name] = [said, *drawer.overview(metric, score, findings)]
        below = [table, *drawer.curves(metric), *drawer.head_maps(), *drawer.histories()]
        self.files += drawer.files
        self.problems += drawer.problems
        return below

    def _significance_note(self, comparisons: Sequence[Comparison]) -> list[str]:
        if any(one.p is not None for one in comparisons):
            seed = os.environ.get("SACREBLEU_SEED", "12345")
            return [
                f"p: paired bootstrap resampling against {self.baseline} of the same seed and test set "
                f"(sacreBLEU's, {SAMPLES} resamples, seed {seed}); of several seeds the largest; the "
                f"smallest there can be is {1 / (SAMPLES + 1):.3f}. Empty where a run has no counterpart or "
                "its sentences were not kept."
            ]
        reasons = Counter(one.why for one in comparisons).items()
        return [f"not tested for significance: {why} ({_count(n, 'score')})." for why, n in reasons]


def _is_of_heads(record: Record) -> bool:
    """Whether a record stands in the tables of heads and scores: it is of none of the other systems."""
    return all(figures(record) is None for figures in (diff_figures, dsee_figures, delta_figures))


def main_metric(records: Sequence[Record]) -> str | None:
    """Return the name of the score that a setting is about; None without any.

    BLEU where there is one, else the `extra["main_metric"]` of a record, else what most records have.
    """
    counts = Counter(metric.name for record in records for metric in record.metrics if metric.name != "speed")
    named = {record.extra.get("main_metric") for record in records}
    ranked = sorted(counts, key=lambda name: (name != "BLEU", name not in named, -counts[name], name))
    return ranked[0] if ranked else None


def _summary(records: Sequence[Record]) -> str:
    methods = sorted({record.method for record in records})
    seeds = sorted({record.seed for record in records if record.seed is not None})
    text = f"{_count(len(records), 'record')}; {_count(len(methods), 'method')}: {', '.join(methods)}"
    return text + (f"; seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}." if seeds else ".")


def _measures(records: Sequence[Record]) -> tuple[list[Row], list[str]]:
    """Set many measures of one run out: a row a subset, a column a measure."""
    rows: dict[str, dict[str, object]] = {}
    columns = ["on"]
    for metric in (metric for record in records for metric in record.metrics):
        column = metric.name + (f" ({metric.unit})" if metric.unit else "")
        columns += [column] if column not in columns else []
        rows.setdefault(metric.subset, {"on": metric.subset})[column] = metric.value
    return list(rows.values()), columns


def _comparison_rows(comparisons: Sequence[Comparison], baseline: str) -> tuple[list[Row], list[str]]:
    columns = ["method", "K", "seed", "on", "score", baseline, "difference", "p", "note"]
    rows = []
    for one in sorted(comparisons, key=lambda c: (c.subset, -(c.setting.kept or 0), c.setting.method)):
        heads = "-" if one.setting.kept is None else f"{one.setting.kept}/{one.setting.total}"
        seed, p = "-" if one.seed is None else str(one.seed), "" if one.p is None else f"{one.p:.3f}"
        run = (one.setting.method, heads, seed, one.subset)
        rows.append(dict(zip(columns, (*run, float(one.value), one.baseline, one.delta, p, one.why))))
    return rows, columns if any(row["note"] for row in rows) else columns[:-1]


def _all_records(found: Found, results: Path) -> Section:
    lines = [record_html(record, path.relative_to(results).as_posix()) for path, record in found]
    hint = paragraph("Click on one for its command, versions and data.", "faint")
    return Section("All records", [hint, *lines])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
