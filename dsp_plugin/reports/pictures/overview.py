"""One picture for a setting: the score over the heads kept, and which heads the best method keeps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from dsp_plugin.reports.pictures.charts import BLUE, FAINT, GREY, mean_sd, new_figure, save_figure, style_axes
from dsp_plugin.reports.pictures.curves import Points, head_ticks
from dsp_plugin.reports.pictures.head_grids import draw_heads


def overview_png(
    points: Points,
    total: int,
    best: Sequence[tuple[str, Mapping[str, Any]]],
    path: str | os.PathLike,
    measure: str,
    title: str = "",
    baseline: str = "unpruned",
) -> None:
    """Draw all methods in grey, the best of each budget in blue with its score, and the heads it keeps.

    Args:
        points: see `curves.curve_points`; a baseline with one number of heads is a dashed line across.
        total: heads of the unpruned model.
        best: (method, `heads` field of a record), one a budget, most heads first; maps of the last three.
        path: the PNG file, written whole or not at all.
        measure: name with unit, for example "BLEU".
        title: a line above the picture.
        baseline: a method.

    Raises:
        ValueError: there is no best method to show.
    """
    if not best:
        raise ValueError("there is nothing to draw")
    figure = new_figure(8.6, 4.4)
    left, right = figure.subfigures(1, 2, width_ratios=(2.1, 1))
    axes = left.subplots()
    for method, curve in points.items():
        numbers = sorted(curve)
        means = [mean_sd(curve[number])[0] for number in numbers]
        if method == baseline and len(numbers) == 1:
            axes.axhline(means[0], color=FAINT, linestyle=(0, (6, 3)), linewidth=1.3)
            right_end = (total, means[0])
            axes.annotate(method, right_end, (0, 4), textcoords="offset points", ha="right", color=FAINT)
        else:
            axes.plot(numbers, means, color=GREY, marker="o", markersize=4, linewidth=1, clip_on=False)
    scores = [mean_sd(points[method][heads["kept"]])[0] for method, heads in best]
    for (_, heads), score in zip(best, scores):
        axes.plot(heads["kept"], score, "o", color=BLUE, markersize=8, markeredgecolor="white", zorder=4)
        axes.annotate(
            f"{score:.2f}",
            (heads["kept"], score),
            (0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=BLUE,
            weight="bold",
            zorder=5,
            bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 0.6},
        )
    places = {kept for curve in points.values() for kept in curve}
    axes.set_xticks(head_ticks(places, total))
    axes.set_xlim(-0.03 * total, 1.03 * total)
    values = [value for curve in points.values() for seeds in curve.values() for value in seeds]
    style_axes(axes, values, f"heads kept, of {total}", measure)
    shown = best[-3:]
    for panel, (method, heads) in zip(right.subplots(len(shown), 1, squeeze=False)[:, 0], shown):
        draw_heads(panel, f"{heads['kept']} of {total} heads:\n{method}", heads)
    save_figure(figure, path, title)
