"""Many masks in one picture: a small panel a run, to see at a glance which heads each method keeps."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dsp_plugin.records.kept_heads import mask_of
from dsp_plugin.reports.pictures.charts import BLUE, FAINT, INK, PALE, new_figure, save_figure
from dsp_plugin.reports.pictures.heads import layer_numbers

_GAP = 0.6  # between two kinds, in heads


def head_grid_png(
    panels: Sequence[tuple[str, Mapping[str, Any]]],
    path: str | os.PathLike,
    title: str = "",
    columns: int = 3,
) -> None:
    """Draw which heads are kept: a panel a run, in it a row a layer (grouped by kind) and a column a head.

    Args:
        panels: (label, `heads` field of a record), all of the same model.
        path: the PNG file, written whole or not at all.
        title: a line above the picture.
        columns: panels side by side.

    Raises:
        ValueError: no panel, no head, or panels of different models.
    """
    from matplotlib.patches import Patch

    if not panels or not panels[0][1]["total"]:
        raise ValueError("there is no head to draw")
    models = {tuple((b["name"], b["kind"], b["num_heads"]) for b in heads["blocks"]) for _, heads in panels}
    if len(models) > 1:
        raise ValueError("the panels are of different models")
    blocks = panels[0][1]["blocks"]
    labels = block_labels(blocks)
    height, width = max(_rows(blocks)[1].values()) + 1, max(block["num_heads"] for block in blocks)
    columns = min(columns, len(panels))
    lines = math.ceil(len(panels) / columns)

    cell = min(0.22, 1.9 / width)  # inches; a model of 16 heads a layer still fits
    label = 0.075 * max(map(len, labels))
    panel_width = max(width * cell, 1.3)  # wide enough for the name of a method
    width = max(label + columns * (panel_width + 0.15) + 0.2, 0.095 * len(title) + 0.3)
    figure = new_figure(width, lines * (height * cell + 0.66) + 0.5 + 0.35 * bool(title))
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.09, wspace=0.03, hspace=0.02)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for position, (axes, (name, heads)) in enumerate(zip(grid.flat, panels)):
        draw_heads(axes, name, heads, labelled=position % columns == 0)
    handles = [Patch(color=BLUE, label="kept"), Patch(color=PALE, label="removed")]
    save_figure(figure, path, title, handles)


def draw_heads(axes: Any, name: str, heads: Mapping[str, Any], labelled: bool = True) -> None:
    """Draw one model's heads: a row a layer, grouped by kind, a square a head, blue if it is kept.

    Args:
        axes: of matplotlib.
        name: stands above.
        heads: the `heads` field of a record.
        labelled: whether the rows are named.
    """
    from matplotlib.patches import Rectangle

    blocks, labels = heads["blocks"], block_labels(heads["blocks"])
    order, tops = _rows(blocks)
    starts = np.cumsum([0] + [block["num_heads"] for block in blocks])
    flags = mask_of(heads)
    for number in order:
        for x, kept in enumerate(flags[starts[number] : starts[number + 1]]):
            corner = (x - 0.44, tops[number] - 0.44)
            axes.add_patch(Rectangle(corner, 0.88, 0.88, facecolor=BLUE if kept else PALE, linewidth=0))
    width = max(block["num_heads"] for block in blocks)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(max(tops.values()) + 0.5, -0.5), aspect="equal", anchor="NW")
    axes.set_xticks([])
    axes.set_yticks([tops[number] for number in order], [labels[number] * labelled for number in order])
    axes.tick_params(length=0, labelsize=8, colors=FAINT)
    axes.spines[:].set_visible(False)
    axes.set_title(name, fontsize=8.5, color=INK, loc="left", pad=4)


def block_labels(blocks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name each block "encoder-self 0", or by its number alone where the block before is of its kind."""
    kinds: dict[str, list[int]] = {}
    for number, block in enumerate(blocks):
        kinds.setdefault(block["kind"], []).append(number)
    labels = [""] * len(blocks)
    for kind, members in kinds.items():
        layers = layer_numbers([blocks[number]["name"] for number in members])
        for place, (member, layer) in enumerate(zip(members, layers)):
            follows = place and members[place - 1] == member - 1
            labels[member] = layer if follows else f"{kind} {layer}"
    return labels


def _rows(blocks: Sequence[Mapping[str, Any]]) -> tuple[list[int], dict[int, float]]:
    """Group the blocks by kind: return their order, and block -> height of its row, in heads."""
    kinds = list(dict.fromkeys(block["kind"] for block in blocks))
    order = sorted(range(len(blocks)), key=lambda number: kinds.index(blocks[number]["kind"]))
    tops, height = {}, 0.0
    for place, number in enumerate(order):
        if place and blocks[order[place - 1]]["kind"] != blocks[number]["kind"]:
            height += _GAP
        tops[number] = height
        height += 1
    return order, tops
