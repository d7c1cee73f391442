"""A few runs side by side as bars, one panel a measure: the picture beside a small table."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

from dsp_plugin.reports.pictures.charts import BLUE, GREY, INK, new_figure, save_figure


def comparison_png(
    labels: Sequence[str],
    measures: Mapping[str, Sequence[float | None]],
    path: str | os.PathLike,
    title: str = "",
) -> None:
    """Draw horizontal bars, each with its number; the first run, the one to compare with, is grey.

    Args:
        labels: the R runs.
        measures: name with unit, such as "speed (sentences/s)" -> R numbers >= 0; None: not measured.
        path: the PNG file, written whole or not at all.
        title: a line above the picture.

    Raises:
        ValueError: nothing to draw, or a measure has not R numbers >= 0.
    """
    if not labels or not measures:
        raise ValueError("there is nothing to compare")
    for name, values in measures.items():
        if len(values) != len(labels):
            raise ValueError(f"{name} has {len(values)} numbers for {len(labels)} runs")
        if any(value is not None and not (math.isfinite(value) and value >= 0) for value in values):
            raise ValueError(f"{name}: bars need finite numbers >= 0")
    label_width = 0.08 * max(map(len, labels))
    width = max(label_width + 2.4 * len(measures), 0.3 + 0.1 * len(title))
    figure = new_figure(width, 0.34 * len(labels) + 0.9)
    all_axes = figure.subplots(1, len(measures), squeeze=False, sharey=True)[0]
    for axes, (name, values) in zip(all_axes, measures.items()):
        lengths = [value or 0 for value in values]
        axes.barh(range(len(labels)), lengths, height=0.68, color=[GREY] + [BLUE] * (len(labels) - 1))
        longest = max(lengths) or 1
        for row, value in enumerate(values):
            text = "not measured"
            if value is not None:
                text = f"{value:,.0f}" if value >= 1000 or isinstance(value, int) else f"{value:.1f}"
            axes.text((value or 0) + 0.03 * longest, row, text, va="center", fontsize=8, color=INK)
        axes.set_xlim(0, 1.5 * longest)  # from zero, with room for the numbers
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xticks([])
        axes.set_yticks(range(len(labels)), labels)
        axes.tick_params(length=0, labelsize=8, colors=INK)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.spines["left"].set_color(GREY)
        axes.set_title(name, fontsize=9, color=INK, loc="left")
    save_figure(figure, path, title)
