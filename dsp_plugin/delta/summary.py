"""A delta file in figures: what each method trains, and what it takes on disk."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .artefact import DeltaFile


@dataclass(frozen=True)
class DeltaSummary:
    """A file in figures.

    Attributes:
        methods: by name: parameters trained, bytes, the stage it is of, whether it is on, and its settings.
        task_head: trained numbers of it. weights: of the base.
        task_head_bytes, other_bytes, file_bytes: parts of the file.
        template, mapping: that the task was learnt with.
    """

    methods: dict[str, dict[str, Any]]
    task_head: int
    weights: int
    task_head_bytes: int
    other_bytes: int
    file_bytes: int
    base_hash: str
    template: str | None
    mapping: dict[str, str] | None
    config: dict[str, Any]

    @property
    def trained(self) -> int:
        """All trained numbers, the task head's among them."""
        return self.task_head + sum(one["parameters"] for one in self.methods.values())

    @property
    def share(self) -> float:
        """The trained numbers as a share of the base's weights."""
        return self.trained / self.weights

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as `dsp delta inspect --json` prints them."""
        return {**asdict(self), "trained": self.trained, "share": self.share}


def summarise(file: DeltaFile) -> DeltaSummary:
    """Work out the figures of a file."""
    off = set(file.config.get("off") or [])
    methods = {
        method: {
            "parameters": part.count,
            "bytes": sum(tensor.nbytes for tensor in part.tensors.values()),
            "stage": part.stage,
            "on": method not in off,
            "settings": part.settings,
        }
        for method, part in file.parts.items()
    }
    task_head = list(file.task_head.values())
    file_bytes, head_bytes = len(file.to_bytes()), sum(tensor.nbytes for tensor in task_head)
    return DeltaSummary(
        methods=methods,
        task_head=sum(tensor.numel() for tensor in task_head),
        weights=file.base.total,
        task_head_bytes=head_bytes,
        other_bytes=file_bytes - head_bytes - sum(one["bytes"] for one in methods.values()),
        file_bytes=file_bytes,
        base_hash=file.base.hash,
        template=file.template,
        mapping=file.mapping,
        config=file.config,
    )
