"""What `dsp diff inspect` and `dsp diff compare` print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dsp_plugin.diffs.packs.arithmetic import Overlap
from dsp_plugin.diffs.packs.summary import PackSummary
from dsp_plugin.options.terminal import printable

Pair = tuple[str, str]


def summary_text(path: str, summary: PackSummary) -> str:
    """Lay out the figures of a pack, then a table by layer."""
    share = f"{summary.nonzeros:,} of them not zero, " if summary.nonzeros != summary.positions else ""
    lines = [
        f"{path}: {summary.file_bytes:,} bytes",
        f"changes: {summary.positions:,} of {summary.weights:,} weights ({summary.density:.3%}), {share}"
        f"as {summary.value_dtype}; {summary.untouched} of {summary.tensors} tensors untouched",
        f"positions: {summary.bits_per_position:.3f} bits each; {summary.floor:.3f} is the floor for random "
        "ones",
        f"bytes: positions {summary.position_bytes:,}, values {summary.value_bytes:,}, task head "
        f"{summary.task_head_bytes:,} ({summary.task_head_parameters:,} parameters), names and shapes "
        f"{summary.other_bytes:,}",
        f"base: SHA-256 {summary.base_hash}",
    ]
    lines += [printable(f"{key}: {value}", keep="") for key, value in summary.config.items()]
    rows = [
        [
            part.layer,
            f"{part.positions:,}",
            f"{part.density:.3%}",
            f"{part.norm:.4g}",
            f"{part.untouched}/{part.tensors}",
        ]
        for part in summary.layers
    ]
    return "\n".join(lines) + "\n\n" + _table(["layer", "positions", "share", "norm", "untouched"], rows)


def overlap_text(found: Mapping[Pair, tuple[Overlap, dict[str, Overlap]]]) -> str:
    """Lay out a table of pairs; for a single pair, one by layer below."""
    columns = ["in both", "by chance", "Jaccard", "same sign", "cosine"]
    rows = [[" and ".join(pair), *_cells(whole)] for pair, (whole, _) in found.items()]
    text = _table(["packs", *columns], rows)
    if len(found) == 1:
        ((_, layers),) = found.values()
        rows = [[layer, *_cells(part)] for layer, part in layers.items()]
        text += "\n\n" + _table(["layer", *columns], rows)
    return text


def overlap_dict(found: Mapping[Pair, tuple[Overlap, dict[str, Overlap]]]) -> list[dict[str, Any]]:
    """Return the same figures as plain data; None where a figure does not exist."""
    return [
        {
            "packs": list(pair),
            **_as_json(whole),
            "layers": {layer: _as_json(part) for layer, part in layers.items()},
        }
        for pair, (whole, layers) in found.items()
    ]


def _cells(part: Overlap) -> list[str]:
    shares = [
        _number(part.jaccard, "{:.3%}"),
        _number(part.same_sign, "{:.1%}"),
        _number(part.cosine, "{:.4f}"),
    ]
    return [f"{part.both:,}", f"{part.expected:,.0f}", *shares]


def _as_json(part: Overlap) -> dict[str, Any]:
    figures = {**vars(part), "jaccard": part.jaccard}
    return {name: None if value != value else value for name, value in figures.items()}


def _number(value: float, form: str) -> str:
    return "-" if value != value else form.format(value)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
