"""How the choice of heads moved during training: one row a head, one column a moment that was noted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from dsp_plugin.reports.pictures.charts import BLUE, GREY, INK, PALE, new_figure, save_figure
from dsp_plugin.reports.pictures.head_grids import block_labels


def check_history(head_map: Mapping[str, Any], history: Any) -> list[tuple[int, list[bool]]]:
    """Read the `extra["history"]` of a training record as (updates, keep [N]), in the order of the updates.

    Args:
        head_map: the `heads` field of the record, or `HeadMap.to_dict()`; N heads.
        history: [{"updates": count, "keep": N times 0 or 1}, ...]; other fields are of no interest here.

    Raises:
        ValueError: it is not that.
    """
    total = sum(block["num_heads"] for block in head_map["blocks"])
    if not isinstance(history, list) or not history:
        raise ValueError("the history must be a list with at least one entry")
    entries = []
    for position, entry in enumerate(history):
        where = f"history[{position}]"
        if not isinstance(entry, dict) or not {"updates", "keep"} <= set(entry):
            raise ValueError(f"{where} must have updates and keep")
        updates, keep = entry["updates"], entry["keep"]
        if type(updates) is not int or updates < 0:
            raise ValueError(f"{where}.updates must be an integer >= 0")
        if not isinstance(keep, list) or len(keep) != total or any(flag not in (0, 1) for flag in keep):
            raise ValueError(f"{where}.keep must be {total} times 0 or 1")
        entries.append((updates, [bool(flag) for flag in keep]))
    return sorted(entries, key=lambda entry: entry[0])


def head_history_png(
    head_map: Mapping[str, Any], history: Any, path: str | os.PathLike, title: str = ""
) -> None:
    """Draw the kept heads over training; below it how many there were.

    Args:
        head_map, history: see `check_history`.
        path: the PNG file, written whole or not at all.
        title: a line above the picture.

    Raises:
        ValueError: the history is not what `check_history` asks for, or there is no head.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    entries = check_history(head_map, history)
    updates = [number for number, _ in entries]
    flags = np.array([keep for _, keep in entries]).T  # [N, moments]
    if not len(flags):
        raise ValueError("there is no head to draw")
    moments = flags.shape[1]

    blocks = [block for block in head_map["blocks"] if block["num_heads"]]
    names = block_labels(blocks)
    picture, ticks, labels = [], [], []
    start = row = 0
    for number, block in enumerate(blocks):
        if number:
            picture.append(np.full(moments, np.nan))  # a blank line between two blocks
            row += 1
        picture += list(flags[start : start + block["num_heads"]].astype(float))
        ticks.append(row + (block["num_heads"] - 1) / 2)
        labels.append(names[number])
        start, row = start + block["num_heads"], row + block["num_heads"]
    row_height = min(0.13, 7.5 / row)
    figure = new_figure(max(5.6, 0.095 * len(title) + 0.3), row * row_height + 1.9)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[row * row_height, 0.6])
    # each moment is a column of its own: they need not be equally far apart
    colours = ListedColormap([PALE, BLUE])
    upper.imshow(np.array(picture), cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="none")
    upper.set_yticks(ticks, labels)
    upper.tick_params(length=0, labelsize=8, colors=INK, labelbottom=False)
    upper.spines[:].set_visible(False)
    counts = flags.sum(axis=0)
    lower.step(range(moments), counts, where="mid", color=INK, linewidth=1.2)
    lower.set_ylim(0, max(len(flags), 1))
    lower.set_yticks([0, len(flags)])
    lower.set_ylabel("kept", fontsize=8, color=INK)
    shown = sorted({round(place) for place in np.linspace(0, moments - 1, min(8, moments))})
    lower.set_xticks(shown, [f"{updates[place]:,}" for place in shown])
    lower.set_xlim(-0.5, moments - 0.5)
    lower.set_xlabel("updates", fontsize=9, color=INK)
    lower.tick_params(length=2, labelsize=8, colors=INK)
    lower.spines[["top", "right"]].set_visible(False)
    lower.spines[["left", "bottom"]].set_color(GREY)
    handles = [Patch(color=BLUE, label="kept"), Patch(color=PALE, label="not kept")]
    save_figure(figure, path, title, handles)
