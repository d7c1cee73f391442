"""A measure against the number of heads kept, one line a method: what pruning costs and gains."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence

from dsp_plugin.records.record import Record
from dsp_plugin.reports.pictures.charts import Chart

# method -> heads kept -> the value of each seed
Points = Mapping[str, Mapping[int, Sequence[float]]]


def curve_points(
    records: Iterable[Record], metric: str, subset: str
) -> tuple[dict[str, dict[int, list[float]]], int]:
    """Collect what there is to draw of one setting name.

    Records of one run that both have the metric (it is the same number) count once.

    Returns:
        method -> heads kept -> values, one a seed; and the unpruned model's number of heads (0: no record).
    """
    found: dict[str, dict[int, dict[int | None, float]]] = {}
    total = 0
    for record in records:
        measured = record.metric(metric, subset)
        if measured is not None and record.heads is not None:
            total = max(total, record.heads["total"])
            curve = found.setdefault(record.method, {})
            curve.setdefault(record.heads["kept"], {})[record.seed] = measured.value
    return {m: {k: list(seeds.values()) for k, seeds in curve.items()} for m, curve in found.items()}, total


def curve_png(
    points: Points,
    total: int,
    path: str | os.PathLike,
    measure: str,
    title: str = "",
    baseline: str = "unpruned",
    methods: Sequence[str] = (),
) -> None:
    """Draw one line a method over the heads kept; bars are the standard deviation over several seeds.

    Args:
        points: see `curve_points`.
        total: heads of the unpruned model, the right end of the axis.
        path: the PNG file, written whole or not at all.
        measure: name with unit, for example "BLEU".
        title: a line above the picture.
        baseline: this method is a dashed line across the picture if it has one number of heads only.
        methods: all methods of the report: each keeps its colour and marker from picture to picture.

    Raises:
        ValueError: nothing to draw, a value that is not finite, heads outside 0..total.
    """
    every = [(kept, value) for curve in points.values() for kept, values in curve.items() for value in values]
    if not every:
        raise ValueError("there is nothing to draw")
    if not all(math.isfinite(value) and 0 <= kept <= total for kept, value in every):
        raise ValueError(f"curves need finite numbers, and heads in 0..{total}")
    across = baseline if len(points.get(baseline, ())) == 1 else None
    order = [*methods, *sorted(set(points) - set(methods))]
    styled = [method for method in order if method != baseline or across is None]
    drawn = [method for method in styled if method in points]

    chart = Chart(len(drawn))
    if across is not None:
        chart.across(next(iter(points[across].values())), across)
    for position, method in enumerate(drawn):
        # side by side, so that bars and markers of the same K do not hide each other
        shift = min(0.008, 0.06 / len(drawn)) * total * (position - (len(drawn) - 1) / 2)
        heads = sorted(points[method])
        values = [points[method][k] for k in heads]
        chart.line(styled.index(method), [k + shift for k in heads], values, method)
    chart.axes.set_xticks(head_ticks({kept for kept, _ in every}, total))
    chart.axes.set_xlim(-0.03 * total - 0.01, 1.03 * total + 0.01)
    chart.save(path, f"heads kept, of {total}", measure, title)


def head_ticks(kept: Iterable[int], total: int) -> list[int]:
    """Choose numbers of heads to name below an axis: `total`, and those that do not run into the next."""
    shown: list[int] = []
    for tick in sorted({*kept, 0, total}, reverse=True):
        if not shown or shown[-1] - tick >= 0.035 * total:
            shown.append(tick)
    return shown[::-1]
