"""A score against measured speed: what each speed-up costs."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from dsp_plugin.reports.pictures.charts import Chart


def speeds_png(
    speedups: Sequence[float], scores: Sequence[float], path: str | os.PathLike, measure: str, title: str = ""
) -> None:
    """Draw the pruned models' scores over their speed-ups, and the unpruned model's across.

    Args:
        speedups: how many times as fast each model is; the first is the unpruned one, 1.
        scores: one a model.
        path: the PNG file, written whole or not at all.
        measure: name of the score, with its unit.
        title: a line above the picture.

    Raises:
        ValueError: fewer than two models, another number of scores, or a number that is not finite.
    """
    if len(speedups) != len(scores) or len(speedups) < 2:
        raise ValueError(f"{len(speedups)} speed-ups and {len(scores)} scores are no curve")
    if not all(math.isfinite(value) for value in (*speedups, *scores)):
        raise ValueError("a curve needs finite numbers")
    chart = Chart(1)
    chart.across([scores[0]], "unpruned")
    ordered = sorted(zip(speedups, scores))
    chart.line(0, [speed for speed, _ in ordered], [[score] for _, score in ordered], "pruned, not tuned")
    chart.save(path, "times as fast as the unpruned model (measured)", measure, title)
