"""`dsp_translation`: translation with DSP, whose cool-down has to fit into the run."""

import logging
import math
from dataclasses import dataclass
from typing import Optional

from fairseq.tasks import register_task

from ..gating import ExponentialCooling
from ..models.dsp_transformer import cooling_of
from ..mt.heads.gated_task import GatedTranslationConfig, GatedTranslationTask
from ..mt.translate.coverage import is_training_pass

logger = logging.getLogger(__name__)


@dataclass
class DSPTranslationConfig(GatedTranslationConfig):
    pass


@register_task("dsp_translation", dataclass=DSPTranslationConfig)
class DSPTranslationTask(GatedTranslationTask):
    """Translation whose model keeps K attention heads."""

    def __init__(self, cfg: DSPTranslationConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        self._cooling: Optional[ExponentialCooling] = None

    def prepare(self, cfg, model_class, options) -> None:
        super().prepare(cfg, model_class, options)
        if "annealing" in options:
            self._cooling = cooling_of(options)

    def get_batch_iterator(self, dataset, *args, **kwargs):
        iterator = super().get_batch_iterator(dataset, *args, **kwargs)
        if self._cooling is not None and is_training_pass(kwargs) and not self.is_finished:
            self._warn_of_long_cooldown(self._cooling, len(iterator), kwargs.get("epoch", 1))
            self._cooling = None  # once a run is enough
        return iterator

    def _warn_of_long_cooldown(self, cooling: ExponentialCooling, batches_per_epoch: int, epoch: int) -> None:
        """Say so loudly where the run ends before the cool-down does."""
        updates_per_epoch = math.ceil(batches_per_epoch / max(1, self.cfg.update_freq[0]))
        limits = [self.cfg.max_update] if self.cfg.max_update else []
        if self.cfg.max_epoch:
            # a reset counts updates from 0 again, but not epochs: the published pipelined run is epoch 61
            # alone
            uncounted = epoch - 1 if self.cfg.reset_optimizer else 0
            limits.append((self.cfg.max_epoch - uncounted) * updates_per_epoch)
        if limits and min(limits) < cooling.start + cooling.steps:
            after = f" after {cooling.start} updates of --pruning-warmup-updates" if cooling.start else ""
            logger.warning(
                f"THE COOL-DOWN IS LONGER THAN THE RUN: --cooldown-steps {cooling.steps}{after}, but "
                "training ends after "
                f"about {min(limits)} updates, at temperature {cooling(min(limits)):.3g} instead of "
                f"{cooling.final:.3g}. The deployed mask may differ from the gates the model has learned "
                "with."
            )
