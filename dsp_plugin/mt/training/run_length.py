"""How many updates a training of fairseq's makes, worked out before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np


@dataclass(frozen=True)
class Stand:
    """Where a training starts counting.

    Attributes:
        updates: those made already.
        epoch: the one that is next, or under way; counted from 1. batches: of it, those read already.
    """

    updates: int = 0
    epoch: int = 1
    batches: int = 0

    @classmethod
    def of(cls, state: dict[str, Any], keeps_updates: bool, keeps_epochs: bool) -> Stand:
        """Read it from a checkpoint to start from.

        Args:
            keeps_updates, keeps_epochs: what the training takes over (no --reset-optimizer,
                no --reset-dataloader).
        """
        history = (state.get("optimizer_history") or [{}])[-1]
        reading = (state.get("extra_state") or {}).get("train_iterator") or {}
        return cls(
            int(history.get("num_updates", 0)) if keeps_updates else 0,
            int(reading.get("epoch", 1)) if keeps_epochs else 1,
            int(reading.get("iterations_in_epoch", 0)) if keeps_epochs else 0,
        )


@dataclass(frozen=True)
class Limits:
    """What ends a training; 0 is no limit.

    Attributes:
        update_freq: batches an update, an epoch each; the last for all epochs after.
        skips_rest: batches that fill no update are left out (--skip-remainder-batch).
    """

    max_update: int = 0
    max_epoch: int = 0
    update_freq: Sequence[int] = (1,)
    skips_rest: bool = False

    @classmethod
    def of(cls, optimization: Any) -> Limits:
        """Take them out of fairseq's options."""
        return cls(
            int(optimization.max_update or 0),
            int(optimization.max_epoch or 0),
            tuple(optimization.update_freq),
            bool(getattr(optimization, "skip_remainder_batch", False)),
        )

    @property
    def bounded(self) -> bool:
        return self.max_update > 0 or self.max_epoch > 0

    def last_update(self, batches: Optional[int], stand: Stand = Stand()) -> Optional[int]:
        """Work out the number of the last update; None where nothing says it.

        Args:
            batches: of an epoch and a process; asked for where there is a limit of epochs.
        """
        ends = [self.max_update] if self.max_update > 0 else []
        if self.max_epoch > 0:
            ends.append(stand.updates + self._updates_of_epochs(batches, stand))
        return min(ends, default=None)

    def _updates_of_epochs(self, batches: int, stand: Stand) -> int:
        if stand.epoch > self.max_epoch:
            return 0
        first = self._updates(batches, stand.epoch, stand.batches)
        # from this epoch on all are alike
        alike = max(stand.epoch + 1, len(self.update_freq))
        several = range(stand.epoch + 1, min(alike, self.max_epoch + 1))
        rest = max(0, self.max_epoch + 1 - alike)
        return (
            first
            + sum(self._updates(batches, epoch) for epoch in several)
            + rest * self._updates(batches, alike)
        )

    def _updates(self, batches: int, epoch: int, read: int = 0) -> int:
        freq = max(1, self.update_freq[min(epoch, len(self.update_freq)) - 1])
        if self.skips_rest:  # fairseq leaves out the last batch, full or not, and then the last update
            return max(0, (batches - 1) // freq - math.ceil(read / freq))
        return max(0, math.ceil(batches / freq) - math.ceil(read / freq))


def mean_tokens(iterator: Any) -> float:
    """Return the mean target tokens of a micro-batch, for fairseq's iterator over a training set."""
    batches = iterator.frozen_batches
    if not batches:
        return 0.0
    sizes = np.asarray(iterator.dataset.tgt_sizes)
    return float(sizes[np.concatenate([np.asarray(batch) for batch in batches])].sum() / len(batches))
