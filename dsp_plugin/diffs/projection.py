"""Projection of a full-size diff onto the L0 ball: its K largest positions (Guo, Rush, Kim, section 3.2)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from ..artefacts.base import find_names
from .sparse import SparseDiff

logger = logging.getLogger(__name__)

# the bits of an infinity, by its bytes; those of not-a-number are above
_INFINITE = {4: 0x7F800000, 8: 0x7FF0000000000000}


class Difference(Mapping[str, Tensor]):
    """The diff of the non-adaptive baseline, name -> finetuned - base, a tensor at a time.

    Args:
        finetuned, base: weights by name; names of the base may have a leading name more or less.
        names: which to compare, for instance a body without its task head, tied weights once.

    Raises:
        ValueError: a name is missing, or has two shapes.
    """

    def __init__(self, finetuned: Mapping[str, Tensor], base: Mapping[str, Tensor], names: Sequence[str]):
        missing = [name for name in names if name not in finetuned]
        if missing:
            some = ", ".join(missing[:3])
            raise ValueError(f"the finetuned weights lack {len(missing)} parameters: {some}")
        called = find_names(names, base)
        for name in names:
            here, there = list(finetuned[name].shape), list(base[called[name]].shape)
            if here != there:
                raise ValueError(f"'{name}' has the shape {here}, in the base {there}")
        self._finetuned, self._base, self._called, self._names = finetuned, base, called, list(names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> Tensor:
        finetuned = self._finetuned[name].detach()
        base = self._base[self._called[name]].detach().to(finetuned.device)
        wide = torch.promote_types(finetuned.dtype, torch.float32)
        return finetuned.to(wide) - base.to(wide)


def count_of(density: float, total: int) -> int:
    """Return the number of positions that a density means: density x total, rounded, at least 1.

    Raises:
        ValueError: a density outside (0, 1].
    """
    if not 0 < density <= 1:
        raise ValueError(f"the density must be in (0, 1], got {density}")
    return max(1, round(Fraction(str(density)) * total))


def project(
    deltas: Mapping[str, Tensor], counts: Sequence[int], layers: Mapping[str, int] | None = None
) -> list[SparseDiff]:
    """Cut the diff down to its largest values in magnitude, once for each of several counts.

    Magnitudes are compared as float32, or, where a tensor is float64, as that. Of values of equal magnitude
    those at lower positions win, counted through the tensors in their order. Where a diff has fewer non-zeros
    than asked for, zeros fill up the count in the same order, with a warning.

    Args:
        deltas: name -> full-size change; asked for a tensor at a time and more than once
            (`DiffVector.deltas()`, or `Difference`), so that no full-size copy of the model is made.
        counts: exact numbers of positions (`count_of` makes them from densities).
        layers: None, the largest of the whole model; else name -> layer, and each layer keeps its share of
            each count by its size (largest remainders).

    Raises:
        ValueError: a count outside 1 .. all elements, a name without a layer, a value that is not finite.
    """
    sizes, uppers, width = _histograms(deltas)
    total = sum(sizes.values())
    for count in counts:
        if not 1 <= count <= total:
            raise ValueError(f"the number of positions must be between 1 and {total}, got {count}")
    if layers is None:
        parts = {0: list(sizes)}
    else:
        parts = {}
        for name in sizes:
            if name not in layers:
                raise ValueError(f"'{name}' has no layer")
            parts.setdefault(layers[name], []).append(name)
    part_sizes = {part: sum(sizes[name] for name in names) for part, names in parts.items()}
    shares = [_shares(count, part_sizes) for count in counts]
    chosen: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in counts]
    shapes: dict[str, tuple[int, ...]] = {}
    for part, names in parts.items():
        wanted = [share[part] for share in shares]
        cuts = _thresholds(deltas, {name: uppers[name] for name in names}, wanted, width)
        for name in names:
            delta = deltas[name]
            shapes[name] = tuple(delta.shape)
            flat = delta.reshape(-1)  # any shape -> [elements]
            key = _magnitude(flat, width)
            for number, (cut, ties) in enumerate(cuts):
                keep, equal = key > cut, (key == cut).nonzero().squeeze(1)  # [elements], [ties]
                taken = equal[:ties]
                keep[taken] = True
                cuts[number] = (cut, ties - taken.numel())
                positions = keep.nonzero().squeeze(1)  # [elements] -> [n, 1] -> [n]
                if positions.numel():
                    chosen[number][name] = (positions.cpu(), flat[positions].cpu())
    diffs = []
    for found in chosen:
        diff = SparseDiff({name: found[name] for name in sizes if name in found}, shapes)
        zeros = sum(int((values == 0).sum()) for _, values in diff.entries.values())
        if zeros:
            few = f"{zeros} change nothing: the diff has fewer non-zeros"
            logger.warning(f"of {diff.count} positions asked for, {few}")
        diffs.append(diff)
    return diffs


def _histograms(deltas: Mapping[str, Tensor], width: int = 4) -> tuple[dict[str, int], dict, int]:
    """Return each tensor's size, the histogram of its magnitudes' upper 16 bits, and the bytes compared.

    Raises:
        ValueError: a value that is not a finite number.
    """
    sizes: dict[str, int] = {}
    uppers: dict[str, Tensor] = {}
    for name in deltas:
        flat = deltas[name].reshape(-1)  # any shape -> [elements]
        if flat.dtype == torch.float64 and width == 4:
            return _histograms(deltas, 8)
        key = _magnitude(flat, width)
        sizes[name] = key.numel()
        if key.numel() and int(key.max()) >= _INFINITE[width]:
            raise ValueError(f"the diff of '{name}' holds values that are not finite numbers")
        uppers[name] = torch.bincount(key >> (8 * width - 16), minlength=1 << 15).cpu()
    return sizes, uppers, width


def _magnitude(flat: Tensor, width: int) -> Tensor:
    """Return integers [n] in the order of |value| as a float of `width` bytes: its bits without the sign."""
    # each view takes the floats [n] for integers [n] of as many bytes
    if width == 8:
        return flat.to(torch.float64).contiguous().view(torch.int64) & 0x7FFFFFFFFFFFFFFF
    return flat.to(torch.float32).contiguous().view(torch.int32) & 0x7FFFFFFF


def _thresholds(
    deltas: Mapping[str, Tensor], uppers: Mapping[str, Tensor], counts: Sequence[int], width: int
) -> list[tuple[int, int]]:
    """Find the magnitude of each count-th largest value, and how many of exactly that one belong to it.

    A histogram of the upper 16 bits, then ones of the next 16 (float64: three times): exact, without sorting
    and without a full-size copy.
    """
    first = 8 * width - 16
    upper = sum(uppers.values())
    # (the bits so far, rank among those)
    found = [_bucket(upper, count) if count else None for count in counts]
    for shift in range(first - 16, -1, -16):
        lowers = {bits: torch.zeros(1 << 16, dtype=torch.int64) for bits, _ in filter(None, found)}
        for name in uppers:
            if any(uppers[name][bits >> (first - 16 - shift)] for bits in lowers):
                key = _magnitude(deltas[name].reshape(-1), width)  # any shape -> [elements]
                for bits, histogram in lowers.items():
                    here = key[(key >> (shift + 16)) == bits]
                    histogram += torch.bincount((here >> shift) & 0xFFFF, minlength=1 << 16).cpu()
        for number, pair in enumerate(found):
            if pair is not None:
                lower, left = _bucket(lowers[pair[0]], pair[1])
                found[number] = ((pair[0] << 16) | lower, left)
    return [(_INFINITE[width], 0) if pair is None else pair for pair in found]


def _bucket(histogram: Tensor, count: int) -> tuple[int, int]:
    """Find the bucket that holds the count-th largest, and its rank in there (from 1)."""
    above = histogram.cpu().flip(0).cumsum(0)
    index = int(torch.searchsorted(above, count))
    before = int(above[index - 1]) if index else 0
    return histogram.numel() - 1 - index, count - before


def _shares(count: int, sizes: Mapping[int, int]) -> dict[int, int]:
    """Share `count` out in proportion to sizes; what rounding leaves goes to the largest remainders."""
    total = sum(sizes.values())
    shares = {part: count * size // total for part, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda part: -(count * sizes[part] % total))
    for part in by_remainder[: count - sum(shares.values())]:
        shares[part] += 1
    return shares
