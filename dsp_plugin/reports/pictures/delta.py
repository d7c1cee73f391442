"""Pictures of Delta-Tuning: a table as coloured cells, such as combinations × tasks or task × task."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from dsp_plugin.reports.pictures.charts import FAINT, INK, new_figure, save_figure

# score, and what is written in the cell; None: not measured
Cell = "tuple[float, str] | None"
_LETTER = 0.075  # inches of a character of the labels


def heat_png(
    cells: Sequence[Sequence[Cell]],
    rows: Sequence[str],
    columns: Sequence[str],
    path: str | os.PathLike,
    title: str = "",
    middle: float | None = None,
) -> None:
    """Draw a table as cells whose colour is their value, with the value in them.

    Args:
        cells: one list a row. What was not measured is an empty cell with a dash.
        rows, columns: their labels.
        path: the PNG file, written whole or not at all.
        title: a line above the picture.
        middle: all cells share one scale around this value, violet above it and orange below; None: each
            column has its own scale, from its lowest to its highest value.

    Raises:
        ValueError: no cell with a value, or a value that is not finite.
    """
    values = [cell[0] for row in cells for cell in row if cell is not None]
    if not values:
        raise ValueError("there is nothing to draw")
    if not all(map(math.isfinite, values)):
        raise ValueError("cells need finite values")
    shades = [[math.nan if shade is None else shade for shade in row] for row in _shades(cells, middle)]
    longest = max(len(cell[1]) for row in cells for cell in row if cell is not None)
    cell_width = max(0.8, _LETTER * max(longest, *map(len, columns)) + 0.1)
    width = max(_LETTER * max(map(len, rows)) + cell_width * len(columns) + 0.3, 0.1 * len(title) + 0.3)
    figure = new_figure(width, 0.3 * len(rows) + 0.75)
    axes = figure.subplots()
    colours = "Blues" if middle is None else "PuOr"
    lowest = 0.0 if middle is None else -1.0
    axes.imshow(shades, cmap=colours, vmin=lowest, vmax=1.0, aspect="auto", interpolation="none")
    for y, row in enumerate(cells):
        for x, cell in enumerate(row):
            text = "–" if cell is None else cell[1]
            shade = shades[y][x]
            dark = shade > 0.6 if middle is None else abs(shade) > 0.6
            colour = FAINT if cell is None else "white" if dark else INK
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(len(columns)), columns)
    axes.tick_params(length=0, labelsize=8, colors=INK)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    save_figure(figure, path, title)


def _shades(cells: Sequence[Sequence[Cell]], middle: float | None) -> list[list[float | None]]:
    """Return the place of each value on its scale: 0 to 1 of a column's, -1 to 1 of a common one."""
    if middle is not None:
        far = max(abs(cell[0] - middle) for row in cells for cell in row if cell is not None) or 1.0
        return [[None if cell is None else (cell[0] - middle) / far for cell in row] for row in cells]
    made: list[list[float | None]] = [[None] * len(row) for row in cells]
    for x in range(len(cells[0])):
        column = {y: row[x][0] for y, row in enumerate(cells) if row[x] is not None}
        for y, value in column.items():
            low, high = min(column.values()), max(column.values())
            # the lowest one is seen, too; a column of one value is in the middle
            made[y][x] = 0.5 if low == high else 0.1 + 0.8 * (value - low) / (high - low)
    return made
