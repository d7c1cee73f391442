"""The short form of a table: what most rows have, and no row a step of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from dsp_plugin.reports.tables.rows import TEXT_COLUMNS, Row

_SWEEP = "seconds (sweep)"  # only what a sweep was asked for has its time; the steps on the way have none


def short_table(rows: Sequence[Row], columns: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Leave out the steps of sweeps, which belong to a curve, and the columns that most rows lack.

    Rows with no number left go too.

    A step stays where it is the sweep's goal, or where a method that is no sweep was pruned to as many heads.

    Args:
        rows, columns: of one setting name, see `rows.table_rows`.
    """
    sweeps = {row.get("method") for row in rows if row.get(_SWEEP) is not None}
    budgets = {row.get("K") for row in rows if row.get("method") not in sweeps and is_pruned(row)}
    shown = [
        row
        for row in rows
        if row.get("method") not in sweeps or row.get(_SWEEP) is not None or row.get("K") in budgets
    ]
    lacking = {column: sum(row.get(column) is None for row in shown) for column in columns}
    columns = [column for column in columns if 2 * lacking[column] <= len(shown) > lacking[column]]
    numbers = [column for column in columns if column not in TEXT_COLUMNS]
    return [row for row in shown if any(row.get(column) is not None for column in numbers)], columns


def is_pruned(row: Row) -> bool:
    """Return whether some of the heads are gone: K is "12/24", and not "24/24" or "-"."""
    kept, _, total = row.get("K", "").partition("/")
    return kept != total and total != ""
