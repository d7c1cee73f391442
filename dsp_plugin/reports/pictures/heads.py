"""Pictures of a model's heads: a small map for the terminal, and a PNG of a mask or of scores.

Both take the head map as a dict, {"blocks": [{"name", "num_heads", "kind"}, ...]}, that is
`HeadMap.to_dict()` or the `heads` field of a record. N is the number of heads, in the order of the blocks.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dsp_plugin.records.kept_heads import kept_in_words
from dsp_plugin.reports.pictures.charts import BLUE, FAINT, INK, PALE, new_figure, save_figure

_KEPT, _REMOVED = "■", "·"
_KEPT_ASCII, _REMOVED_ASCII = "#", "."
_CELL = 0.34  # inches a head
_NO_HEAD = {"facecolor": "white", "edgecolor": "#B5B5B5", "hatch": "/////", "linewidth": 0}


@dataclass
class _Panel:
    """All blocks of one kind: labels of the layers and, a layer, the values of its heads."""

    kind: str
    layers: list[str]
    values: list[np.ndarray]

    @property
    def width(self) -> int:
        return max((len(row) for row in self.values), default=0)

    @property
    def count(self) -> str:
        """A mask's kept heads, in words: "7 of 24"."""
        flags = np.concatenate(self.values)
        return f"{int(flags.sum())} of {len(flags)}"


def head_map_text(head_map: Mapping[str, Any], mask: Sequence[bool], ascii_only: bool | None = None) -> str:
    """Show the kept heads as lines of text: one row a block, grouped by kind, with counts.

    Args:
        head_map: see the module.
        mask: bool [N], True where a head is kept; list, array or tensor.
        ascii_only: '#' and '.' for the squares and dots; None means where stdout cannot encode those.

    Raises:
        ValueError: the mask is not as long as the model has heads.
    """
    if ascii_only is None:
        ascii_only = not _stdout_can_encode(_KEPT + _REMOVED)
    kept, removed = (_KEPT_ASCII, _REMOVED_ASCII) if ascii_only else (_KEPT, _REMOVED)
    flags = _as_array(mask)
    if flags.dtype != bool:
        raise ValueError("a mask must be of booleans, or of 0 and 1")
    panels = _panels(head_map, flags)
    lines = [f"{kept_in_words(head_map, flags)} kept ({kept} kept, {removed} removed)"]
    label_width = max((len(label) for panel in panels for label in panel.layers), default=0)
    width = 2 * max((panel.width for panel in panels), default=0) - 1
    for panel in panels:
        lines.append(f"{panel.kind}: {panel.count}")
        for label, row in zip(panel.layers, panel.values):
            squares = " ".join(kept if flag else removed for flag in row) or "(no heads)"
            lines.append(f"  layer {label:>{label_width}}  {squares:<{width}}  {int(row.sum())}/{len(row)}")
    return "\n".join(lines)


def head_map_png(
    head_map: Mapping[str, Any], mask_or_scores: Sequence[Any], path: str | os.PathLike, title: str = ""
) -> None:
    """Draw a mask or scores: rows are layers, columns heads, one panel a kind of attention.

    Args:
        head_map: see the module.
        mask_or_scores: [N]; booleans and integers are a mask, floats are scores (a colour scale).
        path: the PNG file, written whole or not at all.
        title: a line above the picture.

    Raises:
        ValueError: wrong length, no head at all, a score that is not finite, an integer that is not 0 or 1.
    """
    values = _as_array(mask_or_scores)
    panels = _panels(head_map, values)
    if not len(values):
        raise ValueError("there is no head to draw")
    is_mask = values.dtype == bool
    scale = None if is_mask else _colour_scale(values)

    widths = [max(panel.width, 1) for panel in panels]
    rows = max(len(panel.layers) for panel in panels)
    width = sum(widths) * _CELL + 0.85 * len(panels) + (0.6 if is_mask else 1.2)
    width = max(width, 0.3 + 0.1 * len(title))  # about 0.1 inches a letter of the title
    figure = new_figure(width, rows * _CELL + 1.95)
    # the counts must not touch the next panel's layer numbers
    figure.get_layout_engine().set(wspace=0.06, h_pad=0.08)
    all_axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    for axes, panel in zip(all_axes, panels):
        _draw_panel(axes, panel, rows, scale)
    all_axes[0].set_yticks(range(len(panels[0].layers)), [f"layer {label}" for label in panels[0].layers])
    if scale is not None:
        bar = figure.colorbar(scale, ax=list(all_axes), aspect=18, pad=0.03)
        bar.set_label("score of the head", color=INK, fontsize=9)
        bar.ax.tick_params(labelsize=8, length=2, colors=INK)
        bar.outline.set_visible(False)
    uneven = any(len(row) < panel.width or not len(row) for panel in panels for row in panel.values)
    save_figure(figure, path, title, _legend_handles(is_mask, uneven))


def _draw_panel(axes: Any, panel: _Panel, rows: int, scale: Any) -> None:
    """Draw one kind, a square a head, `rows` high; `scale` maps scores to colours, None for a mask."""
    from matplotlib.patches import Rectangle

    width = max(panel.width, 1)
    for y, row in enumerate(panel.values):
        for x in range(width):
            if x >= len(row):  # this layer has fewer heads than the widest one
                style = _NO_HEAD
            elif scale is None:
                style = {"facecolor": BLUE if row[x] else PALE, "linewidth": 0}
            else:
                style = {"facecolor": scale.to_rgba(float(row[x])), "linewidth": 0}
            axes.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, **style))
        if scale is None:
            axes.text(width - 0.3, y, f"{int(row.sum())}/{len(row)}", va="center", fontsize=7, color=FAINT)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal", anchor="NW")
    axes.set_xticks(range(width), [str(head) for head in range(width)])
    axes.set_yticks(range(len(panel.layers)), panel.layers)
    axes.tick_params(length=0, labelsize=8, colors=INK)
    axes.spines[:].set_visible(False)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("head", color=INK, fontsize=9)
    title = panel.kind if scale is not None else f"{panel.kind}\n{panel.count} kept"
    axes.set_title(title, fontsize=9, color=INK, weight="bold", pad=8)


def _legend_handles(is_mask: bool, uneven: bool) -> list[Any]:
    from matplotlib.patches import Patch

    handles = [Patch(color=BLUE, label="kept"), Patch(color=PALE, label="removed")] if is_mask else []
    if uneven:
        handles.append(Patch(**_NO_HEAD, label="no such head"))
    return handles


def _colour_scale(scores: np.ndarray) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    if not np.isfinite(scores).all():
        raise ValueError("scores to draw must be finite numbers")
    low, high = float(scores.min()), float(scores.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    # cividis: made to look the same with and without colour-blindness
    return ScalarMappable(Normalize(low, high), "cividis")


def _panels(head_map: Mapping[str, Any], values: np.ndarray) -> list[_Panel]:
    """Cut the values [N] into blocks and group these by kind, kinds in the order of their first block."""
    blocks = head_map["blocks"]
    total = sum(block["num_heads"] for block in blocks)
    if values.shape != (total,):
        raise ValueError(f"{list(values.shape)} values for a model of {total} heads")
    starts = np.cumsum([block["num_heads"] for block in blocks])[:-1]
    panels: dict[str, _Panel] = {}
    for block, mine in zip(blocks, np.split(values, starts)):
        panel = panels.setdefault(block["kind"], _Panel(block["kind"], [], []))
        panel.layers.append(block["name"])
        panel.values.append(mine)
    for panel in panels.values():
        panel.layers = layer_numbers(panel.layers)
    return list(panels.values())


def layer_numbers(names: list[str]) -> list[str]:
    """Return the number in each name (encoder.layers.3.self_attn: 3), or positions if it tells too little."""
    found = [re.findall(r"\d+", name) for name in names]
    numbers = [digits[-1] for digits in found if digits]
    return numbers if len(set(numbers)) == len(names) else list(map(str, range(len(names))))


def _as_array(values: Sequence[Any]) -> np.ndarray:
    """Make a list, array or tensor an array on the CPU; a mask of integers becomes one of booleans."""
    tensor = torch.as_tensor(values).detach().cpu()
    array = (tensor.double() if tensor.is_floating_point() else tensor).numpy()
    if array.dtype.kind in "iu":
        if not np.isin(array, (0, 1)).all():
            raise ValueError("a mask must be of booleans, or of 0 and 1")
        array = array.astype(bool)
    return array


def _stdout_can_encode(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
