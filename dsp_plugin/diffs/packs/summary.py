"""A pack in figures: size by part, bits a position beside their floor, changes by layer."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ...records.record import method_label
from ..sparse import SparseDiff
from .golomb import floor_bits
from .layers import layer_of
from .pack import DiffPack
from .pack_file import position_bytes

_LAYER_FIGURES = ("layer", "weights", "nonzeros", "tensors", "untouched")


@dataclass(frozen=True)
class LayerSummary:
    """One layer: its weights and positions, the norm of its diff, its tensors and those without a position.

    `nonzeros` of the positions hold a value that is not zero.
    """

    layer: str
    weights: int
    positions: int
    nonzeros: int
    norm: float
    tensors: int
    untouched: int

    @property
    def density(self) -> float:
        """The share of the weights that have a position."""
        return self.positions / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class PackSummary:
    """A pack in figures.

    Attributes:
        positions, nonzeros: positions stored, and those whose value is not zero.
        weights: of the base, its task head left out.
        bits_per_position: what a position takes in the file; 0 where there is none.
        floor: log2 of the number of ways to choose as many positions in the whole base, a position. No code
            takes less on average over all choices; positions that are unevenly spread can take less.
        position_bytes, value_bytes, task_head_bytes, other_bytes, file_bytes: parts of the file (other: names
            and shapes).
        tensors, untouched: tensors of the base, and those without a position.
    """

    positions: int
    nonzeros: int
    weights: int
    value_dtype: str
    task_head_parameters: int
    bits_per_position: float
    floor: float
    position_bytes: int
    value_bytes: int
    task_head_bytes: int
    other_bytes: int
    file_bytes: int
    tensors: int
    untouched: int
    base_hash: str
    config: dict[str, Any]
    layers: list[LayerSummary]

    @property
    def density(self) -> float:
        """The share of the weights that have a position."""
        return self.positions / self.weights

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as `dsp diff inspect --json` prints them, the task head as `head`."""
        layers = [{**asdict(layer), "density": layer.density} for layer in self.layers]
        figures = {name.removeprefix("task_"): value for name, value in asdict(self).items()}
        return {**figures, "density": self.density, "layers": layers}


def layer_summaries(pack: DiffPack) -> list[LayerSummary]:
    """Count what a pack changes in each layer of its base, in the layers' order."""
    layers: dict[str, list[float]] = {}
    for name in pack.diff.shapes:
        sums = layers.setdefault(layer_of(name), [0, 0, 0, 0.0, 0, 0])
        values = pack.diff.entries[name][1] if name in pack.diff.entries else torch.empty(0)
        square = float(values.double().square().sum())
        more = (pack.diff.size(name), len(values), int(values.count_nonzero()), square, 1, not len(values))
        for place, number in enumerate(more):
            sums[place] += number
    return [
        LayerSummary(layer, weights, positions, nonzeros, square**0.5, tensors, untouched)
        for layer, (weights, positions, nonzeros, square, tensors, untouched) in sorted(
            layers.items(), key=_by_number
        )
    ]


def pack_label(pack: DiffPack) -> str:
    """Name the method of a pack in records, by what the pack says of itself."""
    return method_label(pack.config.get("method") or "diff", pack.density)


def record_figures(pack: DiffPack, file_bytes: int) -> dict[str, Any]:
    """Return what a result record says of a pack, as `extra["diff"]`.

    Args:
        file_bytes: of the file it was read from.
    """
    layers = layer_summaries(pack)
    task_head = sum(tensor.numel() for tensor in pack.task_head.values())
    weights = sum(
        torch.Size(shape).numel() * getattr(torch, dtype).itemsize
        for dtype, shape in pack.base.parameters.values()
    )
    return {
        "method": pack.config.get("method"),
        "total": pack.base.total,
        "density": pack.density,
        "positions": pack.count,
        "nonzeros": pack.nonzeros,
        "head": task_head,
        "bytes": file_bytes,
        "fingerprint": hashlib.sha256(pack.to_bytes()).hexdigest()[:16],
        # of a full copy of the model, which is what a task takes without packs
        "full_bytes": weights
        + sum(tensor.numel() * tensor.element_size() for tensor in pack.task_head.values()),
        "tensors": sum(layer.tensors for layer in layers),
        "untouched": sum(layer.untouched for layer in layers),
        "layers": [{name: getattr(layer, name) for name in _LAYER_FIGURES} for layer in layers],
    }


def mask_fingerprint(diff: SparseDiff) -> str:
    """Return 16 hexadecimal digits of the SHA-256 over a diff's names and positions, whatever its values."""
    digest = hashlib.sha256()
    for name, (positions, _) in sorted(diff.entries.items()):
        if positions.numel():
            digest.update(f"{name}\0{positions.numel()}\0".encode())
            digest.update(positions.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def summarise(pack: DiffPack) -> PackSummary:
    """Work out the figures of a pack."""
    layers = layer_summaries(pack)
    values = [values for _, values in pack.diff.entries.values()]
    coded = position_bytes(pack.diff)
    value_bytes = sum(part.numel() * part.element_size() for part in values)
    task_head_bytes = sum(tensor.numel() * tensor.element_size() for tensor in pack.task_head.values())
    file_bytes = len(pack.to_bytes())
    return PackSummary(
        positions=pack.count,
        nonzeros=pack.nonzeros,
        weights=pack.base.total,
        value_dtype=str(values[0].dtype).replace("torch.", "") if values else "none",
        task_head_parameters=sum(tensor.numel() for tensor in pack.task_head.values()),
        bits_per_position=8 * coded / pack.count if pack.count else 0.0,
        floor=floor_bits(pack.count, pack.base.total) / pack.count if pack.count else 0.0,
        position_bytes=coded,
        value_bytes=value_bytes,
        task_head_bytes=task_head_bytes,
        other_bytes=file_bytes - coded - value_bytes - task_head_bytes,
        file_bytes=file_bytes,
        tensors=len(pack.diff.shapes),
        untouched=sum(layer.untouched for layer in layers),
        base_hash=pack.base.hash,
        config=pack.config,
        layers=layers,
    )


def _by_number(item: Any) -> Any:
    """Return a sort key by which layer 10 comes after layer 9."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in item[0].split(".")]
