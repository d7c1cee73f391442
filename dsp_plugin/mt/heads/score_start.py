"""Scores that begin with the importance of the heads, at the update at which pruning starts.

Nothing has to be remembered: it is done at the beginning of one update, known by its number, and a run that
is resumed there does the same again.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from torch import nn

from ...gating import spread, starting_ranking
from ...gating.importance.start import random_numbers_kept
from .importance import SentenceRanking, training_sentences

logger = logging.getLogger(__name__)

WIDTH = 1.0
"""The scores are spread evenly from -WIDTH to WIDTH, where the schedule says nothing else (`init_width`)."""


def copy_scores(scores: nn.Parameter, optimizer: Any) -> None:
    """Let an optimizer that keeps copies of weights in another precision follow scores that were moved."""
    for own, copy in zip(getattr(optimizer, "fp16_params", ()), getattr(optimizer, "fp32_params", ())):
        if own is scores:
            copy.data.copy_(own.data)


def begins_ranked(options: Mapping[str, Any]) -> bool:
    """Whether options ask for scores that begin with importance."""
    return options.get("init_scores") == "importance"


@dataclass(frozen=True)
class ScoreStart:
    """The start of one training's scores.

    Attributes:
        update: how many updates are made before it.
        width: of the scores. ranking: on which sentences.
        shown: a progress bar is.
    """

    update: int
    width: float
    ranking: SentenceRanking
    shown: bool = True

    @classmethod
    def of(cls, options: Mapping[str, Any], whole: Any, shown: bool) -> Optional["ScoreStart"]:
        """Make it of the model's options and the whole configuration; None where scores begin at random."""
        if not begins_ranked(options):
            return None
        width, ranking = options.get("init_width", WIDTH), training_sentences(whole)
        return cls(
            options["pruning_warmup_updates"], width, ranking, shown and not whole.common.no_progress_bar
        )

    def begin(self, model: nn.Module, dataset: Any, task: Any, optimizer: Any = None) -> None:
        """Put the ranking of the model as it is now in the place of its scores; all processes make the same.

        Args:
            model: with gates, maybe wrapped for data-parallel training.
            dataset: the training set.
            optimizer: fairseq's; where it keeps copies of the weights in another precision, they follow.
        """
        while getattr(model, "gating", None) is None:
            model = model.module
        gates = model.gating.gates
        log_format = None if self.shown else "none"
        with random_numbers_kept():
            importance_of = self.ranking.source(model, dataset, task, log_format=log_format)
            ranking = starting_ranking(importance_of, gates.num_heads, gates.budget)
        gates.begin_with(spread(ranking, self.width))
        copy_scores(gates.scores, optimizer)
        model.train(model.training)  # the mask in force may have been worked out before
        noun = "units" if model.gating.head_map.mixed else "heads"
        said = f"the scores begin with the importance of {gates.num_heads} {noun}"
        logger.info(f"{said}, after {self.update} updates")
