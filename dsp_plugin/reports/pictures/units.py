"""A picture of how many units every block keeps: a bar a layer, one panel a kind of block."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from dsp_plugin.reports.pictures.charts import BLUE, FAINT, INK, PALE, new_figure, save_figure
from dsp_plugin.reports.pictures.heads import layer_numbers


def units_png(
    head_map: Mapping[str, Any], keep: Sequence[bool], path: str | os.PathLike, title: str = ""
) -> None:
    """Draw the number of units kept in each block, of those it has.

    Args:
        head_map: `HeadMap.to_dict()`, of N units.
        keep: bool [N]; list, array or tensor.
        path: the PNG file, written whole or not at all.
        title: a line above the picture.

    Raises:
        ValueError: there is no block, or the mask has another length.
    """
    flags = [bool(flag) for flag in keep]
    if len(flags) != sum(block["num_heads"] for block in head_map["blocks"]) or not head_map["blocks"]:
        raise ValueError(f"{len(flags)} flags do not fit the blocks")
    panels: dict[str, list[tuple[str, int, int, int]]] = {}
    start = 0
    for block in head_map["blocks"]:
        kept = sum(flags[start : start + block["num_heads"]])
        start += block["num_heads"]
        row = (block["name"], kept, block["num_heads"], block.get("neurons", 0))
        panels.setdefault(block["kind"], []).append(row)
    rows = max(map(len, panels.values()))
    figure = new_figure(max(2.6 * len(panels) + 0.6, 0.3 + 0.1 * len(title)), 0.28 * rows + 1.3)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (kind, blocks) in zip(all_axes, panels.items()):
        names, kept, total, neurons = zip(*blocks)
        places, most = range(len(blocks)), max(*total, 1)
        axes.barh(places, total, height=0.7, color=PALE)
        axes.barh(places, kept, height=0.7, color=BLUE)
        for place, few, many in zip(places, kept, total):
            axes.text(many + 0.03 * most, place, f"{few}/{many}", va="center", fontsize=7, color=FAINT)
        axes.set(xlim=(0, 1.25 * most), ylim=(rows - 0.5, -0.5))
        axes.set_yticks(places, layer_numbers(list(names)))
        axes.set_xticks([])
        axes.tick_params(length=0, labelsize=8, colors=INK)
        axes.spines[:].set_visible(False)
        unit = f"groups of {neurons[0]} neurons" if neurons[0] else "heads"
        axes.set_title(f"{kind}\n{sum(kept)} of {sum(total)} {unit}", fontsize=9, color=INK, loc="left")
    save_figure(figure, path, title)
