"""Importance pruning on fairseq (Michel, Levy and Neubig, 2019): model, options and task."""

import logging
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from omegaconf import II
from torch import nn

from ....gating import RankedGates, ranking_of_removal, remove_stepwise, stops
from ....options.errors import OptionError, dashed
from ...checkpoints.flat_config import GatedTransformerConfig
from ..gated_model import GatedTransformerModel, budget_of
from ..gated_task import GatedTranslationConfig, GatedTranslationTask
from ..importance import MAX_TOKENS, RANKINGS, SentenceRanking

logger = logging.getLogger(__name__)


@dataclass
class MichelTransformerConfig(GatedTransformerConfig):
    rank_by: str = field(
        default="importance",
        metadata={"help": f"what heads are ranked by before training starts: {', '.join(RANKINGS)}"},
    )
    exact_pruning: bool = field(
        default=False,
        metadata={"help": "work the importance out anew under the current mask before every removal"},
    )
    heads_per_step: int = field(default=1, metadata={"help": "with --exact-pruning: heads removed at a time"})
    importance_samples: Optional[int] = field(
        default=None,
        metadata={
            "help": "work the importance out on so many training sentences, drawn by --seed (default: all)"
        },
    )
    batch_importance: bool = field(
        default=False,
        metadata={"help": "take the absolute value of a batch's gradient, not of every example's"},
    )
    dont_normalize_importance_by_layer: bool = field(
        default=False, metadata={"help": "do not divide importance by its L2 norm over a block's heads"}
    )
    dont_normalize_global_importance: bool = field(
        default=False, metadata={"help": "do not scale importance to 0..1 over all heads"}
    )


class MichelTransformerModel(GatedTransformerModel):
    """With `num_of_heads` = K: the task ranks the heads before the first update, and K stay for good."""

    method = "michel"

    @classmethod
    def label(cls, options) -> str:
        return cls.method if cls.wants_gates(options) else super().label(options)

    @classmethod
    def freezes_weights(cls, options) -> bool:
        return False

    @classmethod
    def learns_scores(cls, options) -> bool:
        return False

    @classmethod
    def ranks_heads(cls, options) -> bool:
        return cls.wants_gates(options)

    @classmethod
    def check_options(cls, options) -> None:
        super().check_options(options)
        for name in ("joint_pruning", "pruning_warmup_updates"):
            if options[name]:
                reason = "has no meaning for this model: its heads are chosen before training starts"
                raise OptionError(name, reason)
        ranking_of(options).check()

    @classmethod
    def warnings(cls, options) -> list[str]:
        if options["exact_pruning"] and options["rank_by"] != "importance":
            how = f"{dashed('rank_by')} {options['rank_by']}"
            return [f"{dashed('exact_pruning')} has no meaning with {how}, which no removal changes"]
        return []

    @classmethod
    def build_gates(cls, head_map, options) -> nn.Module:
        return RankedGates(head_map, budget_of(head_map, options))


def ranking_of(options, **more) -> SentenceRanking:
    """Return the ranking that the model's options ask for; `more` are fields of `SentenceRanking`."""
    return SentenceRanking(
        rank_by=options["rank_by"],
        per_batch=options["batch_importance"],
        by_block=not options["dont_normalize_importance_by_layer"],
        overall=not options["dont_normalize_global_importance"],
        samples=options["importance_samples"],
        **more,
    )


@dataclass
class MichelTranslationConfig(GatedTranslationConfig):
    # read-only views, see GatedTranslationConfig
    max_tokens: Optional[int] = II("dataset.max_tokens")
    batch_size: Optional[int] = II("dataset.batch_size")
    seed: int = II("common.seed")
    no_progress_bar: bool = II("common.no_progress_bar")


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
        count, budget = gates.num_heads, gates.budget.total
        step = min(self._options["heads_per_step"], max(1, count)) if exact else max(1, count - budget)
        data = self.datasets[self.cfg.train_subset]
        log_format = None if self._is_master and not self.cfg.no_progress_bar else "none"
        importance_of = ranking.source(model, data, self, log_format=log_format)
        keep, removed = torch.ones(count, dtype=torch.bool), []
        noun = "units" if model.gating.head_map.mixed else "heads"
        logger.info(f"choosing {budget} of {count} {noun} by {ranking.rank_by}{', exactly' if exact else ''}")
        importance, path_down = None, stops(count, step, [budget])
        for removal in remove_stepwise(importance_of, keep, path_down, gates.budget, exact):
            removed += removal.removed
            keep, importance = removal.keep, removal.importance
        if exact or importance is None:  # how the heads that stay compare, for whoever asks for fewer later
            importance = importance_of(keep)
        gates.install(ranking_of_removal(removed, importance))
        model.train(model.training)  # the mask in force may have been worked out before
        assert torch.equal(gates.keep().cpu(), keep)
