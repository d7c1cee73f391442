"""Pictures of sparse diffs: the score against the density (Guo et al. 2021), and where the changes are."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dsp_plugin.reports.pictures.charts import FAINT, INK, Chart, new_figure, save_figure
from dsp_plugin.reports.tables.diffs import FULL, LAST_LAYER

# method -> density, a share -> the value of each seed
Points = Mapping[str, Mapping[float, Sequence[float]]]


def density_png(
    points: Points, path: str | os.PathLike, measure: str, title: str = "", methods: Sequence[str] = ()
) -> None:
    """Draw one line a method over the density, on a logarithmic axis; the baselines' lines go across.

    Args:
        points: densities in (0, 1]; those of `full` and `last-layer` play no part.
        path: the PNG file, written whole or not at all.
        measure: name with unit, for example "f1 (%)".
        title: a line above the picture.
        methods: all methods of the report: each keeps its colour and marker from picture to picture.

    Raises:
        ValueError: nothing to draw, a value that is not finite, a density outside (0, 1].
    """
    lines = {method: curve for method, curve in points.items() if method not in (FULL, LAST_LAYER) and curve}
    every = [(density, v) for curve in lines.values() for density, values in curve.items() for v in values]
    if not every:
        raise ValueError("there is nothing to draw")
    if not all(math.isfinite(value) and 0 < density <= 1 for density, value in every):
        raise ValueError("lines need finite numbers, and densities in (0, 1]")
    order = [name for name in dict.fromkeys([*methods, *sorted(lines)]) if name not in (FULL, LAST_LAYER)]
    chart = Chart(len(lines))
    for method, dashes in ((FULL, (6, 3)), (LAST_LAYER, (1.5, 2))):
        for values in points.get(method, {}).values():
            chart.across(values, method, dashes)
    for method in (method for method in order if method in lines):
        densities = sorted(lines[method])
        chart.line(order.index(method), densities, [lines[method][density] for density in densities], method)
    ticks = _apart(sorted({density for density, _ in every}))
    chart.axes.set_xscale("log")
    chart.axes.set_xticks(ticks, [f"{float(f'{100 * tick:.3g}'):g}%" for tick in ticks])
    chart.axes.minorticks_off()
    lowest, highest = min(density for density, _ in every), max(density for density, _ in every)
    chart.axes.set_xlim(lowest / 1.4, highest * 1.4)  # a single density has room, too
    chart.save(path, "density: share of the weights that differ from the base", measure, title)


def share_png(
    packs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], path: str | os.PathLike, title: str = ""
) -> None:
    """Draw which share of a pack's non-zeros lies in each layer, in percent: a row a pack, a column a layer.

    The first row is the layer's share of all weights: what changes spread evenly would give.

    Args:
        packs: (label, layers); a layer is {"layer": name, "weights": count, "nonzeros": count}.
        path: the PNG file, written whole or not at all.
        title: a line above the picture.

    Raises:
        ValueError: no pack, packs of models with different layers, no layer, or a pack without any non-zero.
    """
    if not packs or not packs[0][1]:
        raise ValueError("there is no pack to draw")
    models = {tuple((layer["layer"], layer["weights"]) for layer in layers) for _, layers in packs}
    if len(models) > 1:
        raise ValueError("the packs are of different models")
    names = short_names([layer["layer"] for layer in packs[0][1]])
    rows = [("all weights", _shares(packs[0][1], "weights"))]
    rows += [(label, _shares(layers, "nonzeros")) for label, layers in packs]
    label_width = 0.075 * max(len(label) for label, _ in rows)
    cell = max(0.62, 0.085 * max(map(len, names)))
    width = max(label_width + cell * len(names) + 0.3, 0.1 * len(title) + 0.3)
    figure = new_figure(width, 0.3 * len(rows) + 0.75)
    axes = figure.subplots()
    cells = [shares for _, shares in rows]
    axes.imshow(cells, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="none")
    for y, (_, shares) in enumerate(rows):
        for x, share in enumerate(shares):
            text = f"{share:.0%}" if share >= 0.095 or not share else f"{share:.1%}"
            colour = "white" if share > 0.55 else INK
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color=colour)
    axes.axhline(0.5, color="white", linewidth=3)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(length=0, labelsize=8, colors=INK)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.get_yticklabels()[0].set_color(FAINT)
    axes.spines[:].set_visible(False)
    save_figure(figure, path, title)


def short_names(layers: Sequence[str]) -> list[str]:
    """Shorten names of layers so that they fit above a column.

    >>> short_names(["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.10", "bert.pooler"])
    ['embeddings', 'layer 0', 'layer 10', 'pooler']
    >>> short_names(["encoder.layers.0", "decoder.layers.0"])
    ['encoder 0', 'decoder 0']
    """
    stacks = {name.rsplit(".", 1)[0] for name in layers if name.rsplit(".", 1)[-1].isdigit()}
    short = []
    for name in layers:
        *leading, last = name.split(".")
        if not last.isdigit():
            short.append(last)
        elif len(stacks) < 2:
            short.append(f"layer {last}")
        else:
            short.append(f"{next((part for part in leading if 'coder' in part), '.'.join(leading))} {last}")
    return short if len(set(short)) == len(short) else list(layers)


def _shares(layers: Sequence[Mapping[str, Any]], what: str) -> list[float]:
    total = sum(layer[what] for layer in layers)
    if not total:
        raise ValueError(f"a pack without any {what}")
    return [layer[what] / total for layer in layers]


def _apart(ticks: Sequence[float]) -> list[float]:
    """Leave out the ticks whose numbers would run into the one before."""
    shown: list[float] = []
    for tick in ticks:
        if not shown or tick >= 1.25 * shown[-1]:
            shown.append(tick)
    return shown
