"""Differentiable subset pruning on fairseq (Li, Cotterell and Sachan, 2021): model, options and task."""

import logging
import math
from dataclasses import dataclass, field
from typing import Optional

from torch import nn

from ....gating import ExponentialCooling, RelaxedSubset, StraightThroughSubset, constant_temperature
from ....gating.methods.advice import frozen_scores, unfinished_cooldown
from ...checkpoints.flat_config import GatedTransformerConfig
from ...training.coverage import is_training_pass
from ..gated_model import GatedTransformerModel, budget_of
from ..gated_task import GatedTranslationConfig, GatedTranslationTask

logger = logging.getLogger(__name__)


@dataclass
class DSPTransformerConfig(GatedTransformerConfig):
    use_ste: bool = field(
        default=False,
        metadata={"help": "straight-through: hard top-K forward, identity backward; no annealing"},
    )
    annealing: bool = field(
        default=False,
        metadata={
            "help": "cool the sampler from --initial-temperature to --final-temperature over --cooldown-steps"
        },
    )
    initial_temperature: float = field(
        default=0.1, metadata={"help": "temperature of the sampler at update 0"}
    )
    final_temperature: float = field(
        default=1e-8,
        metadata={"help": "temperature at the end of the cool-down, and throughout without --annealing"},
    )
    cooldown_steps: int = field(default=15000, metadata={"help": "updates of the cool-down"})


class DSPTransformerModel(GatedTransformerModel):
    """With `num_of_heads` = K: relaxed or straight-through gates that learn which K heads to keep."""

    method = "dsp"

    @classmethod
    def label(cls, options) -> str:
        return "dsp-ste" if options["use_ste"] and options["joint_pruning"] else super().label(options)

    @classmethod
    def check_options(cls, options) -> None:
        super().check_options(options)
        if options["use_ste"] and options["annealing"]:
            raise ValueError("--use-ste has no temperature: give either --use-ste or --annealing")
        if not cls.wants_gates(options):
            for name in ("use_ste", "annealing"):
                if options[name]:
                    raise ValueError(
                        f"--{name.replace('_', '-')} needs --num-of-heads K, the number of heads to keep"
                    )

    @classmethod
    def warnings(cls, options) -> list[str]:
        relaxed = cls.wants_gates(options) and not options["use_ste"]
        return frozen_scores(options["final_temperature"]) if relaxed and not options["annealing"] else []

    @classmethod
    def build_gates(cls, head_map, options) -> nn.Module:
        budget = budget_of(head_map, options)
        if options["use_ste"]:
            return StraightThroughSubset(head_map, budget)
        return RelaxedSubset(
            head_map, budget, cooling_of(options) or constant_temperature(options["final_temperature"])
        )


def cooling_of(options) -> ExponentialCooling | None:
    """Return the temperature schedule that the options ask for; None without annealing."""
    if not options["annealing"]:
        return None
    return ExponentialCooling(
        options["initial_temperature"],
        options["final_temperature"],
        options["cooldown_steps"],
        options["pruning_warmup_updates"],
    )


@dataclass
class DSPTranslationConfig(GatedTranslationConfig):
    pass


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
        if limits:
            for warning in unfinished_cooldown(cooling, min(limits)):
                logger.warning(warning)
