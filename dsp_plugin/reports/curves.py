"""A measure against the number of heads kept, one line a method: the picture of what pruning costs and gains."""

from __future__ import annotations

import math
import os
import statistics
from typing import Iterable, Mapping, Sequence

from dsp_plugin.reports.files import replacing
from dsp_plugin.reports.records import Record

# Okabe and Ito's colours, told apart in any kind of colour blindness, without their yellow, which is too pale on
# white. Markers and dashes differ too, so that the picture reads in grey print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_DASHES = ("-", "--", "-.", ":")
_GREY, _INK, _FAINT = "#B8B8B8", "#222222", "#6B6B6B"

# method -> heads kept -> the value of each seed
Points = Mapping[str, Mapping[int, Sequence[float]]]


def curve_points(records: Iterable[Record], metric: str, subset: str) -> tuple[dict[str, dict[int, list[float]]], int]:
    """What there is to draw of one setting name.

    Records of one run that both have the metric (it is the same number) count once.

    Returns:
        method -> heads kept -> values, one a seed; and the number of heads of the unpruned model (0: no record).
    """
    found: dict[str, dict[int, dict[int | None, float]]] = {}
    total = 0
    for record in records:
        measured = record.metric(metric, subset)
        if measured is not None and record.heads is not None:
            total = max(total, record.heads["total"])
            found.setdefault(record.method, {}).setdefault(record.heads["kept"], {})[record.seed] = measured.value
    return {m: {k: list(seeds.values()) for k, seeds in kept.items()} for m, kept in found.items()}, total


def curve_png(
    points: Points,
    total: int,
    path: str | os.PathLike,
    measure: str,
    title: str = "",
    baseline: str = "unpruned",
    methods: Sequence[str] = (),
) -> None:
    """Draws one line a method over the heads kept; bars are the standard deviation over seeds, where there are several.

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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    every = [(kept, value) for curve in points.values() for kept, values in curve.items() for value in values]
    if not every:
        raise ValueError("there is nothing to draw")
    if not all(math.isfinite(value) and 0 <= kept <= total for kept, value in every):
        raise ValueError(f"curves need finite numbers, and heads in 0..{total}")
    across = baseline if len(points.get(baseline, ())) == 1 else None
    order = [*methods, *sorted(set(points) - set(methods))]
    styled = [method for method in order if method != baseline or across is None]
    drawn = [method for method in styled if method in points]

    crowded = len(drawn) > 7
    figure = Figure(figsize=(8.0, 6.2) if crowded else (5.3, 4.0), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    axes = figure.subplots()
    if across is not None:
        (values,) = points[across].values()
        mean, sd = _mean_sd(values)
        axes.axhline(mean, color=_FAINT, linestyle=(0, (6, 3)), linewidth=1.3, zorder=1, label=across)
        if sd:
            axes.axhspan(mean - sd, mean + sd, color=_GREY, alpha=0.35, linewidth=0, zorder=0)
    for position, method in enumerate(drawn):
        number = styled.index(method)
        colour = _COLOURS[number % len(_COLOURS)]
        # side by side, so that bars and markers of the same K do not hide each other
        shift = min(0.008, 0.06 / len(drawn)) * total * (position - (len(drawn) - 1) / 2)
        kept = sorted(points[method])
        means, sds = zip(*(_mean_sd(points[method][k]) for k in kept))
        axes.errorbar(
            [k + shift for k in kept], means, yerr=sds if any(sds) else None, label=method, color=colour,
            marker=_MARKERS[number % len(_MARKERS)], linestyle=_DASHES[number // len(_COLOURS) % len(_DASHES)],
            markersize=6.5, markeredgecolor="white", markeredgewidth=0.6, linewidth=1.6, capsize=3, elinewidth=1.1,
            clip_on=False,
        )  # fmt: skip
    ticks = sorted({kept for kept, _ in every} | {0, total})
    axes.set_xticks(_apart(ticks, total), [str(kept) for kept in _apart(ticks, total)])
    axes.set_xlim(-0.03 * total - 0.01, 1.03 * total + 0.01)
    axes.margins(y=0.08)
    lowest, highest = min(value for _, value in every), max(value for _, value in every)
    if 0 <= lowest < highest / 4:
        axes.set_ylim(bottom=0)  # so near to zero that the zero should be seen
    axes.set_xlabel(f"heads kept, of {total}", color=_INK, fontsize=10)
    axes.set_ylabel(measure, color=_INK, fontsize=10)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=_INK, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)
    if title:
        axes.set_title(title, loc="left", fontsize=11, color=_INK, weight="bold", pad=10)
    figure.legend(
        loc="outside lower center", ncols=min(3, len(drawn) + (across is not None)), frameon=False, fontsize=9,
        labelcolor=_INK, handlelength=2.6,
    )  # fmt: skip
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", facecolor="white")


def _mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation, 0 for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _apart(ticks: Sequence[int], total: int) -> list[int]:
    """The ticks without those whose numbers would run into the one before; the last one always stays."""
    shown: list[int] = []
    for tick in reversed(ticks):
        if not shown or shown[-1] - tick >= 0.035 * total:
            shown.append(tick)
    return shown[::-1]
