"""Pictures of DSEE: the score against what a task costs, in numbers that learn or in bytes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

from dsp_plugin.reports.pictures.charts import Chart

_WIDE = 8  # as many lines as make a picture wide enough for three long names side by side

# method -> what it costs, and the score of each seed
Costs = Mapping[str, "tuple[float, Sequence[float]]"]


def cost_png(
    points: Costs,
    path: str | os.PathLike,
    along: str,
    measure: str,
    title: str = "",
    methods: Sequence[str] = (),
) -> None:
    """Draw a mark a method, over a logarithmic axis of costs; bars are the standard deviation over seeds.

    Args:
        path: the PNG file, written whole or not at all.
        along, measure: the names of the axes.
        title: a line above the picture.
        methods: all methods of the report: each keeps its colour and marker from picture to picture.

    Raises:
        ValueError: nothing to draw, a score that is not finite, a cost that is not above 0.
    """
    if not points or not all(values for _, values in points.values()):
        raise ValueError("there is nothing to draw")
    if not all(cost > 0 and all(map(math.isfinite, values)) for cost, values in points.values()):
        raise ValueError("marks need finite scores, and costs above 0")
    chart = Chart(_WIDE)
    order = list(dict.fromkeys([*methods, *points]))
    for method in (method for method in order if method in points):
        cost, values = points[method]
        chart.line(order.index(method), [cost], [values], method)
    costs = [cost for cost, _ in points.values()]
    chart.axes.set_xscale("log")
    chart.axes.set_xlim(min(costs) / 2, max(costs) * 2)  # a single cost has room, too
    chart.save(path, along, measure, title)
