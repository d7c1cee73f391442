"""A DSEE file in figures: what is trained, what is pruned, and what it takes on disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from .artefact import DseeFile


@dataclass(frozen=True)
class DseeSummary:
    """A file in figures.

    Attributes:
        matrices: with an update. low_rank, entries, task_head: trained numbers of A and B, S2, the task head.
        nonzeros: entries of S2 that are not zero.
        weights: of the base, its task head left out.
        masked, pruned: weights of the matrices that S1 is on, and those of them that are zero.
        units: {block: units kept} where units were removed, else None. groups: {block: neurons in a group}.
        low_rank_bytes, entry_bytes, mask_bytes, task_head_bytes, other_bytes, file_bytes: parts of the file.
    """

    matrices: int
    low_rank: int
    entries: int
    nonzeros: int
    task_head: int
    weights: int
    masked: int
    pruned: int
    units: dict[str, int] | None
    groups: dict[str, int]
    low_rank_bytes: int
    entry_bytes: int
    mask_bytes: int
    task_head_bytes: int
    other_bytes: int
    file_bytes: int
    base_hash: str
    config: dict[str, Any]

    @property
    def trained(self) -> int:
        """All trained numbers."""
        return self.low_rank + self.entries + self.task_head

    @property
    def share(self) -> float:
        """The trained numbers as a share of the base's weights."""
        return self.trained / self.weights

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as `dsp dsee inspect --json` prints them."""
        return {**asdict(self), "trained": self.trained, "share": self.share}


def summarise(file: DseeFile) -> DseeSummary:
    """Work out the figures of a file."""
    updates = file.updates.values()
    low_rank = [part for one in updates for part in (one.down, one.up)]
    values = [one.values for one in updates]
    task_head = list(file.task_head.values())
    masks = file.masks.values()
    parts = {
        "low_rank_bytes": _bytes(low_rank),
        # positions of a matrix that fits take four bytes in the file
        "entry_bytes": _bytes(values) + sum(4 * part.numel() for part in values),
        "mask_bytes": sum(mask.bits.numel() for mask in masks),
        "task_head_bytes": _bytes(task_head),
    }
    file_bytes = len(file.to_bytes())
    return DseeSummary(
        matrices=len(file.updates),
        low_rank=_count(low_rank),
        entries=_count(values),
        nonzeros=sum(int(part.count_nonzero()) for part in values),
        task_head=_count(task_head),
        weights=file.base.total,
        masked=sum(mask.size for mask in masks),
        pruned=sum(mask.size - mask.kept for mask in masks),
        units=None if file.kept is None else {name: len(kept) for name, kept in file.kept.items()},
        groups=file.groups,
        **parts,
        other_bytes=file_bytes - sum(parts.values()),
        file_bytes=file_bytes,
        base_hash=file.base.hash,
        config=file.config,
    )


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
