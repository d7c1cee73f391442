"""`michel_translation`: the heads are ranked and the K best chosen before the first update; then the model
is tuned.
"""

import logging
from dataclasses import dataclass
from typing import Any, Optional

import torch
from fairseq.tasks import register_task
from omegaconf import II

from ..gating import RankedGates, ranking_of_removal, remove_stepwise, stops
from ..models.michel_transformer import ranking_of
from ..mt.heads.gated_task import GatedTranslationConfig, GatedTranslationTask
from ..mt.heads.importance import MAX_TOKENS

logger = logging.getLogger(__name__)


@dataclass
class MichelTranslationConfig(GatedTranslationConfig):
    # read-only views, see GatedTranslationConfig
    max_tokens: Optional[int] = II("dataset.max_tokens")
    batch_size: Optional[int] = II("dataset.batch_size")
    seed: int = II("common.seed")
    no_progress_bar: bool = II("common.no_progress_bar")


@register_task("michel_translation", dataclass=MichelTranslationConfig)
class MichelTranslationTask(GatedTranslationTask):
    """Translation whose model keeps the K heads that matter most to the model it starts from."""

    ranks_heads = True

    def __init__(self, cfg: MichelTranslationConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        self._options: dict[str, Any] = {}

    def prepare(self, cfg, model_class, options) -> None:
        super().prepare(cfg, model_class, options)
        self._options = dict(options)

    def begin_epoch(self, epoch, model):
        super().begin_epoch(epoch, model)
        gates = getattr(getattr(model, "gating", None), "gates", None)
        if not isinstance(gates, RankedGates):
            return
        if not bool(gates.chosen):
            self._choose_heads(model, gates)
        elif not model.gating.num_updates:
            logger.info("the checkpoint to start from has a ranking of its heads: it stays")

    def _choose_heads(self, model, gates: RankedGates) -> None:
        """Rank the heads of the model as it is now. Every process comes to the same ranking."""
        tokens, sentences = self.cfg.max_tokens, self.cfg.batch_size
        ranking = ranking_of(
            self._options,
            seed=self.cfg.seed,
            max_tokens=tokens or (None if sentences else MAX_TOKENS),
            batch_size=sentences,
        )
        exact = self._options["exact_pruning"] and ranking.rank_by == "importance"
        count, kept = gates.num_heads, gates.budget.total
        step = min(self._options["heads_per_step"], max(1, count)) if exact else max(1, count - kept)
        data = self.datasets[self.cfg.train_subset]
        log_format = None if self._is_master and not self.cfg.no_progress_bar else "none"
        importance_of = ranking.source(model, data, self, log_format=log_format)
        keep, removed = torch.ones(count, dtype=torch.bool), []
        logger.info(f"choosing {kept} of {count} heads by {ranking.rank_by}{', exactly' if exact else ''}")
        importance = None
        for removal in remove_stepwise(importance_of, keep, stops(count, step, [kept]), gates.budget, exact):
            removed += removal.removed
            keep, importance = removal.keep, removal.importance
        if exact or importance is None:  # how the heads that stay compare, for whoever asks for fewer later
            importance = importance_of(keep)
        gates.install(ranking_of_removal(removed, importance))
        model.train(model.training)  # the mask in force may have been worked out before
        assert torch.equal(gates.keep().cpu(), keep)
