"""Tables of results from records: one row a setting, averaged over its seeds; Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dsp_plugin.records.record import Metric, Record

NOT_MEASURED = "not measured"
TEXT_COLUMNS = ("setting", "method", "on")  # the others are numbers, set to the right

Row = Mapping[str, Any]


class Setting(NamedTuple):
    """The setting that a row of the table stands for; its runs differ by the seed only.

    Args:
        name, method: as in the records.
        kept, total: heads kept, of how many; None where heads play no part.
        groups_kept, groups: groups of neurons likewise.
    """

    name: str
    method: str
    kept: int | None = None
    total: int | None = None
    groups_kept: int | None = None
    groups: int | None = None


class PValue(float):
    """A probability, shown with three digits after the point."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over `n` >= 2 runs."""

    mean: float
    sd: float
    n: int


def setting_of(record: Record) -> Setting:
    """Return the setting that a record belongs to."""
    heads = record.heads or {}
    groups = heads.get("groups", {})
    counts = (heads.get("kept"), heads.get("total"), groups.get("kept"), groups.get("total"))
    return Setting(record.name, record.method, *counts)


def table_rows(
    records: Iterable[Record],
    expected: Sequence[Setting] = (),
    subsets: Sequence[str] = (),
    seeds: int | None = None,
    p_values: Mapping[tuple[Setting, str, str], PValue] | None = None,
    metric: str = "BLEU",
) -> tuple[list[Row], list[str]]:
    """Make the rows of the table, and the names of its columns in order.

    Records that share setting and seed are parts of one run (training, each test set) and are joined.

    Args:
        records: of one or several settings.
        expected: the rows the table should have, in this order; other settings follow, most heads first.
        subsets: the test sets it should have, in this order; others follow by name.
        metric: the score it should have on these; it comes first.
        seeds: runs a setting should have; then the column "runs" says "1 of 3".
        p_values: (setting, metric, subset) -> p, see `significance.largest_p`; then the column "p SUBSET"
            follows the metric, empty where p is not known.

    Returns:
        rows: column -> text, number, `Spread`, `PValue`, or None for what was not measured.
        columns: "setting" only if there are several names; "method"; "K" (heads kept/total), and "groups"
            likewise of groups of neurons, where there are some; one a metric and subset, `metric` first, with
            its unit; "parameters" (after pruning); "updates"; "seconds (phase)"; "runs".

    Raises:
        ValueError: two records of one run contradict each other, or runs of one setting were scored in ways
            that cannot be compared (other data or BLEU signature); names both.
    """
    groups: dict[Setting, dict[int | None, _Run]] = {setting: {} for setting in expected}
    found: dict[Setting, dict[int | None, _Run]] = {}
    for record in records:
        setting = setting_of(record)
        runs = groups[setting] if setting in groups else found.setdefault(setting, {})
        runs.setdefault(record.seed, _Run()).add(record)
    groups.update(sorted(found.items(), key=lambda item: _most_heads_first(item[0])))
    for setting, runs in groups.items():
        _require_comparable(setting, runs)

    every_run = [run for runs in groups.values() for run in runs.values()]
    metrics = _metric_columns(every_run, subsets, metric)
    phases = sorted({phase for run in every_run for phase in run.seconds}, key=lambda p: (p != "train", p))
    tested = {key[1:] for key in p_values or ()}
    with_groups = any(setting.groups is not None for setting in groups)
    rows = []
    for setting, seeded in groups.items():
        runs = list(seeded.values())
        row: dict[str, Any] = {"setting": setting.name, "method": setting.method}
        row["K"] = "-" if setting.kept is None else f"{setting.kept}/{setting.total}"
        if with_groups:
            row["groups"] = "-" if setting.groups is None else f"{setting.groups_kept}/{setting.groups}"
        for column, key in metrics.items():
            row[column] = spread(run.metrics[key].value if key in run.metrics else None for run in runs)
            if key in tested:
                row[f"p {key[1]}".rstrip()] = p_values.get((setting, *key), "")
        row["parameters"] = spread(run.parameters["after"] if run.parameters else None for run in runs)
        row["updates"] = spread(run.updates for run in runs)
        for phase in phases:
            row[f"seconds ({phase})"] = spread(run.seconds.get(phase) for run in runs)
        row["runs"] = len(runs) if seeds is None else f"{len(runs)} of {seeds}"
        rows.append(row)
    columns = list(rows[0]) if rows else []
    if len({setting.name for setting in groups}) < 2:
        columns = columns[1:]
    return rows, columns


def signature_notes(records: Iterable[Record]) -> list[str]:
    """Write one line a metric with signatures, for below the table: "BLEU flickr: nrefs:1|case:lc|..."."""
    found: dict[tuple[str, str], set[str]] = {}
    for metric in (metric for record in records for metric in record.metrics):
        if metric.signature:
            found.setdefault((metric.name, metric.subset), set()).add(metric.signature)
    return [f"{' '.join(key).rstrip()}: {'; '.join(sorted(found[key]))}" for key in sorted(found)]


def spread_notes(rows: Sequence[Row]) -> list[str]:
    """Say what stands below a table that has spreads."""
    if any(isinstance(value, Spread) for row in rows for value in row.values()):
        return ["numbers with ±: mean and standard deviation over the seeds."]
    return []


def comparable_signature(signature: str) -> str:
    """Return the signature without sacreBLEU's version, which is no difference in what is measured."""
    return "|".join(part for part in signature.split("|") if not part.startswith("version:"))


def markdown_table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Write a Markdown table; means as "38.12 ± 0.21", what is missing as "not measured"."""
    cells = [[cell_text(row.get(column)).replace("|", "\\|") for column in columns] for row in rows]
    return _tabulated(cells, [column.replace("|", "\\|") for column in columns], columns, "pipe")


def latex_table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Write the same as a LaTeX `tabular` for the package booktabs."""
    cells = [[cell_text(row.get(column)) for column in columns] for row in rows]
    text = _tabulated(cells, columns, columns, "latex_booktabs")
    # tabulate leaves these two as they are
    return text.replace("±", r"$\pm$").replace("|", r"\textbar{}") + "\n"


def _tabulated(cells: list[list[str]], headers: Sequence[str], columns: Sequence[str], form: str) -> str:
    from tabulate import tabulate

    align = ["left" if column in TEXT_COLUMNS else "right" for column in columns] if cells else None
    return tabulate(cells, headers, tablefmt=form, disable_numparse=True, colalign=align)


def csv_table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Write the same as CSV, with unrounded numbers; a column with a spread is followed by its "sd"."""
    spread = {column for column in columns for row in rows if isinstance(row.get(column), Spread)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [[column, f"{column} sd"] if column in spread else [column] for column in columns]
    writer.writerow(sum(names, []))
    for row in rows:
        cells: list[Any] = []
        for column in columns:
            value = NOT_MEASURED if row.get(column) is None else row[column]
            cells.append(value.mean if isinstance(value, Spread) else value)
            if column in spread:
                cells.append(value.sd if isinstance(value, Spread) else "")
        writer.writerow(cells)
    return text.getvalue()


class _Run:
    """The records of one setting and seed, joined."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.metrics: dict[tuple[str, str], Metric] = {}
        self.seconds: dict[str, float] = {}
        self.parameters: dict[str, int] | None = None
        self.updates: int | None = None
        self.data = ""

    def add(self, record: Record) -> None:
        for metric in record.metrics:
            known = self.metrics.setdefault((metric.name, metric.subset), metric)
            if known != metric:
                self._contradiction(record, f"{metric.name} {metric.subset}".rstrip())
        for name in ("parameters", "data"):
            mine, other = getattr(self, name), getattr(record, name)
            if mine and other and mine != other:
                self._contradiction(record, name)
            setattr(self, name, mine or other)
        for phase, seconds in record.seconds.items():
            # the same number twice is the same work reported twice; other numbers are further work
            if all(seconds != known.seconds.get(phase) for known in self.records):
                self.seconds[phase] = self.seconds.get(phase, 0) + seconds
        if record.updates is not None:  # scoring an earlier checkpoint does not shorten the training
            self.updates = max(record.updates, self.updates or 0)
        self.records.append(record)

    def _contradiction(self, record: Record, what: str) -> None:
        first = self.records[0]
        raise ValueError(
            f"two records of one run differ in {what}: {first.kind} and {record.kind}, both of "
            f"{_describe(record)}. Keep one of them, or give settings that differ other names"
        )


def _describe(record: Record) -> str:
    setting = setting_of(record)
    heads = "" if setting.kept is None else f", {setting.kept} of {setting.total} heads"
    if setting.groups is not None:
        heads += f" and {setting.groups_kept} of {setting.groups} groups of neurons"
    return f"{record.name}, {record.method}{heads}, seed {record.seed}"


def _require_comparable(setting: Setting, runs: Mapping[int | None, _Run]) -> None:
    data: dict[str, Record] = {}
    signatures: dict[tuple[str, str], dict[str, Record]] = {}
    for run in runs.values():
        if run.data:
            data[run.data] = run.records[0]
        for key, metric in run.metrics.items():
            signatures.setdefault(key, {})[comparable_signature(metric.signature)] = run.records[0]
    checked = {"data": data}
    checked.update((f"signature of {' '.join(key).rstrip()}", found) for key, found in signatures.items())
    for what, values in checked.items():
        if len(values) > 1:
            both = " and ".join(map(_describe, list(values.values())[:2]))
            raise ValueError(f"runs of one setting cannot be averaged, their {what} differs: {both}")


def _metric_columns(runs: Sequence[_Run], subsets: Sequence[str], first: str) -> dict[str, tuple[str, str]]:
    """Map column to (metric name, subset): `first`, then by name; expected subsets first, in their order."""
    units = {key: metric.unit for run in runs for key, metric in run.metrics.items()}
    for subset in subsets:
        units.setdefault((first, subset), "")
    rank = {subset: position for position, subset in enumerate(subsets)}
    ordered = sorted(units, key=lambda key: (key[0] != first, key[0], rank.get(key[1], len(rank)), key[1]))
    return {metric_column(name, subset, units[name, subset]): (name, subset) for name, subset in ordered}


def metric_column(name: str, subset: str, unit: str) -> str:
    """Name the column of a metric: "f1 dev (%)"."""
    return f"{name} {subset}".rstrip() + (f" ({unit})" if unit else "")


def _most_heads_first(setting: Setting) -> tuple:
    groups = (-(setting.groups or 0), -(setting.groups_kept or 0))
    return (setting.name, -(setting.total or 0), -(setting.kept or 0), *groups, setting.method)


def spread(values: Iterable[float | None]) -> float | Spread | None:
    """Return the spread of values, leaving None out; a value alone, or counts that agree, as they are."""
    values = [value for value in values if value is not None]
    if len(values) < 2:
        return values[0] if values else None
    if len(set(values)) == 1 and isinstance(values[0], int):
        return values[0]
    return Spread(statistics.fmean(values), statistics.stdev(values), len(values))


def cell_text(value: Any) -> str:
    """Write a cell as a person reads it: "38.12 ± 0.21", "1,428,480", "1.2e-07", "not measured"."""
    if value is None:
        return NOT_MEASURED
    if isinstance(value, Spread):
        digits = 2 if abs(value.mean) < 1000 else 0
        return f"{value.mean:,.{digits}f} ± {value.sd:,.{digits}f}"
    if isinstance(value, PValue):
        return f"{value:.3f}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return " ".join(str(value).split())  # no line ends inside a row
    if isinstance(value, int):
        return f"{value:,}"
    if 0 < abs(value) < 0.005:
        return f"{value:.2g}"  # not zero
    return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"
