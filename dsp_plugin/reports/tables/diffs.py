"""Tables of sparse diffs from records: score, density, what a task takes on disk, beside full finetuning.

A record is of a diff where it has `extra["diff"]`, which the programs of diff pruning write from the reloaded
pack: `method`, `total` and `density` always, `positions`, `nonzeros`, `bytes`, `full_bytes`, `tensors`,
`untouched`, `layers` where there is a pack. Its method ends with the density, and with the stage where that
is not the last: `diff-structured-0.5%`, `diff-structured-0.5%-projected`, `diff-structured-unprojected`.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dsp_plugin.records.record import Record
from dsp_plugin.reports.tables.rows import Row, Setting, Spread, setting_of, spread, table_rows

FULL, LAST_LAYER = "full", "last-layer"
_ORDER = (FULL, LAST_LAYER, "non-adaptive", "diff-unstructured", "diff-structured")
_STAGE = r"(?:-(?P<stage>projected|unprojected|scored))?"
_LABEL = re.compile(r"(?P<method>.*?)(?:-(?P<percent>\d+(?:\.\d+)?)%)?" + _STAGE)


class DiffMethod(NamedTuple):
    """A record's method taken apart: name, density in percent or None, and the stage if not the last."""

    method: str
    percent: float | None = None
    stage: str = ""


def read_method(label: str) -> DiffMethod:
    """Take a record's method apart.

    >>> read_method("diff-structured-0.5%-projected")
    DiffMethod(method='diff-structured', percent=0.5, stage='projected')
    """
    found, percent = _LABEL.fullmatch(label), {FULL: 100.0, LAST_LAYER: 0.0}.get(label)
    if found["percent"] is not None:
        percent = float(found["percent"])
    return DiffMethod(found["method"], percent, found["stage"] or "")


def diff_figures(record: Record) -> Mapping[str, Any] | None:
    """Return what a record says of a diff; None if it is of none."""
    figures = record.extra.get("diff")
    return figures if isinstance(figures, dict) else None


def diff_rows(
    records: Iterable[Record],
    metric: str,
    expected: Sequence[str] = (),
    subsets: Sequence[str] = (),
    seeds: int | None = None,
) -> tuple[list[Row], list[str]]:
    """Make the rows of one setting's table: a method and a density each, averaged over its seeds.

    Stage 2's score stands beside stage 3's, as "before stage 3".

    Args:
        records: of one setting name; those of no diff are left out.
        metric: the score, which comes first.
        expected: methods, as records of the last stage name them, that the table should have.
        subsets, seeds: as `tables.table_rows`.

    Returns:
        rows, and the names of their columns, in order.

    Raises:
        ValueError: as `tables.table_rows`.
    """
    records = [record for record in records if diff_figures(record) is not None]
    like = setting_of(records[0]) if records else Setting("", "")
    rows, columns = table_rows(
        records, [like._replace(method=label) for label in expected], subsets, seeds, metric=metric
    )
    by_label = {row["method"]: row for row in rows}
    by_seed: dict[str, dict[int | None, Mapping[str, Any]]] = {}
    for record in records:
        by_seed.setdefault(record.method, {})[record.seed] = diff_figures(record)
    score = main_column(columns, metric)
    full = mean_of(by_label.get(FULL, {}).get(score))
    every = [figures for seeded in by_seed.values() for figures in seeded.values()]
    tensors = {figures["tensors"] for figures in every if figures.get("tensors")}
    untouched = "untouched tensors" + (f" of {max(tensors)}" if len(tensors) == 1 else "")
    measured = [c for c in columns if c not in ("setting", "method", "K", "groups", "parameters", "runs")]
    times = [column for column in measured if column == "updates" or column.startswith("seconds")]
    made = []
    for label in sorted(by_label, key=method_order):
        kind, row, known = read_method(label), by_label[label], list(by_seed.get(label, {}).values())
        if kind.stage == "projected" and label.removesuffix("-projected") in by_label:
            continue  # its score stands in the row of the last stage
        value = mean_of(row.get(score))
        density = mean_of(spread(t.get("density") for t in known))
        if kind.percent is not None:
            density = kind.percent / 100
        # full finetuning, the last layer and stage 1 have no projection, or no file, and so lack some figures
        lacking = "" if known and (kind.stage == "unprojected" or kind.method in (FULL, LAST_LAYER)) else None
        figures = {
            "non-zeros": spread(t.get("nonzeros", t.get("total")) for t in known),
            untouched: spread(0 if kind.method == FULL else t.get("untouched") for t in known),
            "bytes": spread(t.get("bytes") for t in known),
            "% of a full copy": spread(
                100 * t["bytes"] / t["full_bytes"] for t in known if t.get("bytes") and t.get("full_bytes")
            ),
        }
        made.append(
            {
                "method": kind.method + (f", {kind.stage}" if kind.stage else ""),
                "density": None if density is None else f"{float(f'{100 * density:.3g}'):g}%",
                **{column: row[column] for column in measured if column not in times},
                "difference to full": None if value is None or full is None else value - full,
                "before stage 3": by_label.get(f"{label}-projected", {}).get(score, lacking),
                **{name: lacking if figure is None else figure for name, figure in figures.items()},
                **{column: row[column] for column in times},
                "runs": row["runs"],
            }
        )
    return made, list(made[0]) if made else ["method", "density"]


def across_rows(
    tables: Mapping[str, Sequence[Row]], shown: Mapping[str, str], averaged: Sequence[str] = ()
) -> tuple[list[Row], list[str]]:
    """Put one column of several settings' tables side by side, with its average.

    Args:
        tables: setting -> rows of `diff_rows`.
        shown: setting -> the column, such as its score.
        averaged: the settings that count in the average, which is there only where all of them are measured.

    Returns:
        rows, and the names of their columns, in order.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name, rows in tables.items():
        for row in rows:
            if row["density"] is not None and "," not in row["method"]:
                found.setdefault((row["method"], row["density"]), {})[name] = row.get(shown[name])

    def average(cells: Mapping[str, Any]) -> float | None:
        values = [mean_of(cells.get(name)) for name in averaged]
        return None if None in values else statistics.fmean(values)

    full = next((average(cells) for (method, _), cells in found.items() if method == FULL and averaged), None)
    made = []
    for (method, density), cells in sorted(found.items(), key=lambda item: method_order("-".join(item[0]))):
        row = {"method": method, "density": density, **{name: cells.get(name) for name in tables}}
        if averaged:
            value = average(cells)
            row[f"average of {len(averaged)}"] = value
            row["difference to full"] = None if value is None or full is None else value - full
        made.append(row)
    return made, list(made[0]) if made else []


def main_column(columns: Sequence[str], metric: str) -> str:
    """Return the first column with this metric."""
    return next((c for c in columns if c == metric or c.startswith(f"{metric} ")), metric)


def mean_of(value: Any) -> float | None:
    """Return the mean of a cell; None if it holds no number."""
    if isinstance(value, Spread):
        return value.mean
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def method_order(label: str) -> tuple:
    """Return a sort key: baselines first, then the methods, each by density from high to low."""
    kind = read_method(label)
    rank = _ORDER.index(kind.method) if kind.method in _ORDER else len(_ORDER)
    percent = 100.0 if kind.percent is None else kind.percent
    return (rank, kind.method, bool(kind.stage), -percent, kind.stage)
