"""Scores that start from the importance of the heads: learning begins with what a sweep would keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from ...gating import spread, starting_ranking
from ...gating.importance.start import SAMPLES, check_start, random_numbers_kept
from .gating import switchboard_of
from .importance import Collate, ExampleRanking


@dataclass(frozen=True)
class ImportanceStart:
    """Ranks a gated model's heads by a short sweep over its training data; `HeadGatesCallback(start=...)`.

    Called, it gives the scores [N], evenly spaced from -width to width, whose K largest are the heads that
    the sweep keeps. Several processes share the examples and come to the same scores. No random number of the
    training is used up.

    Attributes:
        model: gated, with a budget: on its device, its weights as they are when pruning starts.
        dataset, collate, batch_size: see `measured_importance`.
        width: see `spread`.
        samples: examples that count, drawn by `seed`.
    """

    model: PreTrainedModel
    dataset: Any
    collate: Collate
    batch_size: int = 32
    width: float = 1.0
    seed: int = 1
    samples: int = SAMPLES

    def __call__(self) -> Tensor:
        """Work the scores out.

        Raises:
            OptionError: the gates have no budget. ValueError: see `measured_importance`.
        """
        gates = switchboard_of(self.model).gates
        budget = getattr(gates, "budget", None)
        check_start("importance", budget is not None)
        ranking = ExampleRanking(
            by_block=False, samples=self.samples, seed=self.seed, batch_size=self.batch_size
        )
        with random_numbers_kept():
            importance_of = ranking.source(self.model, self.dataset, self.collate)
            return spread(starting_ranking(importance_of, gates.num_heads, budget), self.width)
