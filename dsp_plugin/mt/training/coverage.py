"""How much of a data set a score covers: fairseq leaves sentences out where told to, or where too long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import torch

COVERAGE = "dsp_coverage"
"""Key in a checkpoint's task state: {subset: [sentences that were scored, sentences of the set]} of
incomplete sets."""


@dataclass(frozen=True)
class Coverage:
    """`covered` of the `total` sentences of a data set."""

    covered: int
    total: int

    @property
    def whole(self) -> bool:
        return self.covered == self.total

    def label(self, name: str) -> str:
        """Return the set's name; of a part `name-16-of-21`, so that its score is not taken for the whole."""
        return name if self.whole else f"{name}-{self.covered}-of-{self.total}"


def is_training_pass(arguments: dict) -> bool:
    """Return whether `get_batch_iterator` was called to train; `--gen-subset train` has the name of that set.

    Of all fairseq's programs only its Trainer asks for the order of batches within groups, and only to train.
    """
    return "grouped_shuffling" in arguments


def coverage_of(iterator, max_valid_steps: Optional[int] = None) -> Coverage:
    """Count the sentences of an `EpochBatchIterator` read to its end, or for `max_valid_steps` batches.

    Of several shards those of all processes count where these share their results, else this process's own.
    """
    batches = list(iterator.frozen_batches)
    shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    if iterator.num_shards > 1 and not shared:
        batches = batches[iterator.shard_id :: iterator.num_shards]
        shards = 1
    else:
        shards = iterator.num_shards
    if max_valid_steps is not None:
        batches = batches[: (max_valid_steps + 1) * shards]  # fairseq stops once it has passed that number
    return Coverage(sum(map(len, batches)), len(iterator.dataset))
