"""Lines with their spread over seeds, in one style for all pictures of a report."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from typing import Any

from dsp_plugin.records.files.whole import replacing

# Okabe and Ito's colours, told apart in any kind of colour blindness, without their yellow, which is too pale
# on white. Markers and dashes differ too, so that the picture reads in grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
BLUE = COLOURS[0]
PALE, GREY, FAINT, INK = "#DEDEDE", "#B8B8B8", "#6B6B6B", "#222222"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_DASHES = ("-", "--", "-.", ":")


class Chart:
    """A picture of lines.

    Args:
        lines: how many there will be.
    """

    def __init__(self, lines: int) -> None:
        self.figure = new_figure(*((8.0, 6.2) if lines > 7 else (5.3, 4.0)))
        self.figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
        self.axes = self.figure.subplots()
        self.entries = 0
        self.values: list[float] = []

    def across(self, values: Sequence[float], label: str, dashes: Sequence[float] = (6, 3)) -> None:
        """Draw a dashed line across at the mean of the values, one a seed, and a band of their deviation."""
        mean, sd = mean_sd(values)
        style = (0, tuple(dashes))
        self.axes.axhline(mean, color=FAINT, linestyle=style, linewidth=1.3, zorder=1, label=label)
        if sd:
            self.axes.axhspan(mean - sd, mean + sd, color=GREY, alpha=0.35, linewidth=0, zorder=0)
        self._count(values)

    def line(
        self, number: int, places: Sequence[float], values: Sequence[Sequence[float]], label: str
    ) -> None:
        """Draw one line.

        Args:
            number: decides its colour, marker and dashes.
            places: along the axis.
            values: one list of seeds a place; bars are their standard deviation.
        """
        means, sds = zip(*map(mean_sd, values))
        self.axes.errorbar(
            places,
            means,
            yerr=sds if any(sds) else None,
            label=label,
            color=COLOURS[number % len(COLOURS)],
            marker=_MARKERS[number % len(_MARKERS)],
            linestyle=_DASHES[number // len(COLOURS) % len(_DASHES)],
            markersize=6.5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            linewidth=1.6,
            capsize=3,
            elinewidth=1.1,
            clip_on=False,
        )
        self._count(value for seeds in values for value in seeds)

    def _count(self, values) -> None:
        self.entries += 1
        self.values += values

    def save(self, path: str | os.PathLike, along: str, measure: str, title: str = "") -> None:
        """Write the PNG, whole or not at all; `along` and `measure` are the names of the axes."""
        style_axes(self.axes, self.values, along, measure)
        if title:
            self.axes.set_title(title, loc="left", fontsize=11, color=INK, weight="bold", pad=10)
        self.figure.legend(
            loc="outside lower center",
            ncols=min(3, self.entries),
            frameon=False,
            fontsize=9,
            labelcolor=INK,
            handlelength=2.6,
        )
        save_figure(self.figure, path)


def new_figure(width: float, height: float) -> Any:
    """Make an empty figure of this size in inches.

    By the object interface, without pyplot, so that neither a display nor the caller's backend is touched.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Any, values: Sequence[float], along: str, measure: str) -> None:
    """Give axes the look of all pictures of a report.

    Args:
        axes: of matplotlib.
        values: all that is drawn.
        along, measure: the names of the two axes, with units.
    """
    axes.margins(y=0.08)
    if 0 <= min(values) < max(values) / 4:
        axes.set_ylim(bottom=0)  # so near to zero that the zero should be seen
    axes.set_xlabel(along, color=INK, fontsize=10)
    axes.set_ylabel(measure, color=INK, fontsize=10)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=INK, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation, which is 0 for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def save_figure(figure: Any, path: str | os.PathLike, title: str = "", handles: Sequence[Any] = ()) -> None:
    """Write a PNG, whole or not at all.

    Args:
        figure: of matplotlib.
        path: the file.
        title: a line above the picture.
        handles: entries of the legend below it.
    """
    if title:
        figure.suptitle(title, x=0.015, ha="left", fontsize=11, color=INK, weight="bold")
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower left",
            ncols=len(handles),
            frameon=False,
            fontsize=8,
            labelcolor=INK,
            handlelength=1,
            handleheight=1,
        )
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", facecolor="white")
