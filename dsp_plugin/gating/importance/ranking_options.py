"""The options of a ranking that no host has a say in: what heads are ranked by, and on how much data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from ...options.errors import OptionError
from ..head_map import HeadMap
from .head_importance import HeadImportance, normalised
from .removal_order import ImportanceOf, random_ranking

RANKINGS = ("importance", "magnitude", "random")


@dataclass(frozen=True)
class RankingOptions:
    """The way in which heads are ranked.

    Attributes:
        rank_by: one of `RANKINGS`.
        per_batch, by_block, overall: see `HeadImportance` and `normalised`.
        samples: examples to work the importance out on, drawn by `seed`; None means all.
    """

    SAMPLES: ClassVar[str] = "samples"  # the option that gives `samples`

    rank_by: str = "importance"
    per_batch: bool = False
    by_block: bool = True
    overall: bool = True
    samples: int | None = None
    seed: int = 1

    def check(self) -> None:
        """Raise an OptionError for what cannot be."""
        if self.rank_by not in RANKINGS:
            raise OptionError("rank_by", f"must be one of {', '.join(RANKINGS)}, got {self.rank_by!r}")
        if self.samples is not None and self.samples < 1:
            raise OptionError(self.SAMPLES, f"must be 1 or more, got {self.samples}")

    def sample(self, count: int) -> np.ndarray:
        """Choose which of `count` examples count: all, or `samples` drawn by `seed`; [n] rising numbers."""
        if self.samples is None or self.samples >= count:
            return np.arange(count)
        return np.sort(np.random.RandomState(self.seed).permutation(count)[: self.samples])

    def importance_of(
        self,
        head_map: HeadMap,
        measured: Callable[[Tensor], HeadImportance],
        magnitudes: Callable[[], Tensor],
    ) -> ImportanceOf:
        """Return the function keep -> scores [N] of this ranking, larger is better.

        Args:
            head_map: the N heads.
            measured: keep -> importance under that mask; called only where heads are ranked by importance.
            magnitudes: () -> [N], the norm of each head's weights; called only where they are ranked by it.
        """
        if self.rank_by != "importance":
            heads = head_map.num_heads
            ranks = random_ranking(heads, self.seed) if self.rank_by == "random" else magnitudes()
            return lambda keep: ranks
        return lambda keep: normalised(measured(keep).value(), head_map, keep, self.by_block, self.overall)
