"""Tables of DSEE from records: score, what learns, what is left of the base, operations, time, bytes.

A record is of DSEE where it has `extra["dsee"]`, the account that its programs write of every stage. LoRA
alone is one of its methods; full finetuning and sparse diffs of the same setting stand beside it, by their
own records (`tables.diffs`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dsp_plugin.records.record import Record
from dsp_plugin.reports.tables.diffs import FULL, LAST_LAYER, diff_figures, main_column, mean_of, read_method
from dsp_plugin.reports.tables.rows import Row, Setting, Spread, cell_text, spread, table_rows

LORA, UNTUNED = "lora", "-untuned"
SAMPLES, LEVEL = 1000, 95  # of paired bootstrap intervals, see `reports.intervals`
INTERVALS = (
    f"differences with an interval: paired bootstrap over the examples, {SAMPLES} resamples, {LEVEL} %; of "
    "several seeds the mean, on the same examples. It says nothing of other seeds. Others: of the means"
)
LEARNS, BYTES = "numbers that learn", "bytes"


def dsee_figures(record: Record) -> Mapping[str, Any] | None:
    """Return what a record says of an update on a base; None if it is of none."""
    figures = record.extra.get("dsee")
    return figures if isinstance(figures, dict) else None


def difference_text(difference: float, low: float, high: float) -> str:
    """Write a difference with its interval."""
    return f"{difference:+.2f} ({low:+.2f} to {high:+.2f})"


def compared(records: Iterable[Record]) -> list[Record]:
    """Return the records that stand in a table of DSEE: its own, full finetuning and last stages of diffs."""
    return [record for record in records if dsee_figures(record) is not None or _is_beside(record)]


def dsee_rows(
    records: Iterable[Record],
    metric: str,
    expected: Sequence[str] = (),
    subsets: Sequence[str] = (),
    seeds: int | None = None,
    differences: Mapping[str, Any] | None = None,
    reference: str = LORA,
) -> tuple[list[Row], list[str]]:
    """Make the rows of one setting's table: a method each, averaged over its seeds.

    Stage II's score stands beside stage III's, as "before stage III".

    Args:
        records: of one setting name, see `compared`; others are left out.
        metric: the score, which comes first.
        expected: methods that the table should have, in this order; others follow.
        subsets, seeds: as `tables.table_rows`.
        differences: method -> its difference to `reference`, which is written as it is; where there is none
            it is that of the means.
        reference: a method.

    Returns:
        rows, and the names of their columns, in order. A number is None where a run should have it, and empty
        where there is no such thing.

    Raises:
        ValueError: as `tables.table_rows`.
    """
    records = compared(records)
    name = records[0].name if records else ""
    # heads and neurons are in the method's name: a row of a method that was not run has none to count
    plain = [replace(record, heads=None) for record in records]
    settings = [Setting(name, label) for label in expected]
    rows, columns = table_rows(plain, settings, subsets, seeds, metric=metric)
    by_label = {row["method"]: row for row in rows}
    score = main_column(columns, metric)
    known: dict[str, dict[int | None, list[Record]]] = {}
    for record in sorted(records, key=lambda record: bool(record.metrics)):  # scores last
        known.setdefault(record.method, {}).setdefault(record.seed, []).append(record)
    base = mean_of(by_label.get(reference, {}).get(score))
    measured = [c for c in columns if c not in ("setting", "method", "K", "parameters", "runs")]
    times = [column for column in measured if column == "updates" or column.startswith("seconds")]
    made = []
    for label in sorted(by_label, key=lambda one: _order(one, expected)):
        if label.endswith(UNTUNED) and label.removesuffix(UNTUNED) in by_label:
            continue  # its score stands in the row of the last stage
        row, value = by_label[label], mean_of(by_label[label].get(score))
        difference = None if value is None or base is None else value - base
        made.append(
            {
                "method": label,
                **{column: row[column] for column in measured if column not in times},
                f"difference to {reference}": (differences or {}).get(label, difference),
                "before stage III": by_label.get(label + UNTUNED, {}).get(score, ""),
                **_figures(list(known.get(label, {}).values()), label in expected),
                **{column: row[column] for column in times},
                "runs": row["runs"],
            }
        )
    return made, list(made[0]) if made else ["method"]


def _figures(runs: Sequence[Sequence[Record]], expected: bool) -> dict[str, Any]:
    """Return the cells of one method's runs, each of one or several records."""
    accounts = [account for records in runs if (account := _account(records))]
    if not accounts and runs:
        return _beside([records[-1] for records in runs])
    lacking = None if expected or accounts else ""

    def cell(of: Any) -> Any:
        found = spread(of(account) for account in accounts)
        return lacking if found is None else found

    return {
        LEARNS: cell(lambda a: a.get("trainable", a.get("trained"))),
        "not zero in the update": cell(lambda a: _sum(a.get("update_nonzeros"))),
        "weights left (%)": cell(lambda a: _percent(a.get("weights_left"), a.get("base_weights"))),
        "not zero, merged": cell(lambda a: a.get("merged_nonzeros")),
        "FLOPs (%)": cell(lambda a: _percent(*_pair(a.get("flops"), "deployed", "base"))),
        "ms": cell(lambda a: _milliseconds(a.get("latency"))),
        "times as fast": _speed(accounts) or lacking,
        BYTES: cell(lambda a: a.get("bytes")),
    }


def _account(records: Iterable[Record]) -> dict[str, Any]:
    """Join what the records of one run say: training, scoring, the translation of a test set."""
    joined: dict[str, Any] = {}
    for record in records:
        joined.update(dsee_figures(record) or {})
    return joined


def _beside(records: Sequence[Record]) -> dict[str, Any]:
    """Return the cells of full finetuning or of a diff, which prune nothing."""
    figures = [found for record in records if (found := diff_figures(record)) is not None]
    counts = [figure.get("nonzeros", figure.get("total")) for figure in figures]
    return {
        LEARNS: spread(counts),
        "not zero in the update": spread(counts),
        "weights left (%)": 100.0,
        "not zero, merged": "",
        "FLOPs (%)": 100.0,
        "ms": "",
        "times as fast": "",
        BYTES: spread(figure.get("bytes") for figure in figures),
    }


def _speed(accounts: Sequence[Mapping[str, Any]]) -> str:
    """Say the median of the pairs, over seeds the mean of medians, and the range of all pairs."""
    found = [_clocked(a["latency"]) for a in accounts if isinstance(a.get("latency"), dict)]
    if not found:
        return ""
    medians = spread(one["speedup"] for one in found)
    mean = medians.mean if isinstance(medians, Spread) else medians
    least, most = min(one["least"] for one in found), max(one["most"] for one in found)
    return f"{cell_text(mean)} ({least:.2f} to {most:.2f})"


def _milliseconds(latency: Any) -> float | None:
    return 1e3 * _clocked(latency)["deployed"] if isinstance(latency, dict) else None


def _clocked(latency: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the processor's clock says, where one thread ran on a CPU; else the wall's."""
    return latency.get("processor", latency)


def _order(label: str, expected: Sequence[str]) -> tuple:
    """Return a sort key: full finetuning, diffs, then what was expected, then the rest by name."""
    kind = read_method(label)
    if label == FULL:
        return (0,)
    if kind.percent is not None:
        return (1, kind.method, -kind.percent)
    return (2, [*expected, label].index(label), label)


def _is_beside(record: Record) -> bool:
    kind = read_method(record.method)
    last = kind.percent is not None and not kind.stage and kind.method != LAST_LAYER
    return last and diff_figures(record) is not None


def _sum(counts: Any) -> int | None:
    return sum(counts.values()) if isinstance(counts, dict) else None


def _pair(counts: Any, *names: str) -> list[Any]:
    return [counts.get(name) if isinstance(counts, dict) else None for name in names]


def _percent(part: Any, whole: Any) -> float | None:
    return 100.0 * part / whole if part is not None and whole else None
