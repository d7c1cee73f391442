"""Differentiable subset pruning on fairseq (Li, Cotterell and Sachan, 2021): model, options and task."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from torch import nn

from ....gating import SubsetOptions
from ....options.errors import dashed
from ...checkpoints.flat_config import ScheduledTransformerConfig
from ...training.coverage import is_training_pass
from ...training.run_length import Limits, Stand
from ..gated_model import GatedTransformerModel, budget_of
from ..gated_task import GatedTranslationConfig, GatedTranslationTask

logger = logging.getLogger(__name__)


@dataclass
class DSPTransformerConfig(ScheduledTransformerConfig):
    use_ste: bool = field(
        default=False,
        metadata={"help": "straight-through: hard top-K forward, identity backward; no annealing"},
    )
    sampler: Optional[str] = field(
        default=None,
        metadata={
            "help": "how masks are drawn in training: relaxed (DSP's relaxed top-K) or simple (SIMPLE: masks "
            "of exactly K heads, their gradient that of the marginals; no temperature, or with --annealing "
            "one that falls) (default: relaxed)"
        },
    )
    annealing: bool = field(
        default=False,
        metadata={
            "help": "cool the sampler from --initial-temperature to --final-temperature over --cooldown-steps"
        },
    )
    initial_temperature: Optional[float] = field(
        default=None,
        metadata={
            "help": "temperature of the sampler at update 0 (default: worked out where the schedule is, else "
            "0.1)"
        },
    )
    final_temperature: Optional[float] = field(
        default=None,
        metadata={
            "help": "temperature at the end of the cool-down, and throughout without --annealing (default: "
            "worked out where the schedule is, else 1e-8)"
        },
    )
    cooldown_steps: Optional[int] = field(
        default=None,
        metadata={
            "help": "updates of the cool-down (default: worked out where the schedule is, else 15000; with "
            "--pruning-schedule published 250 where only the scores learn)"
        },
    )
    final_noise: Optional[float] = field(
        default=None,
        metadata={
            "help": "scale of the sampler's noise at the end of the cool-down, 0..1: it falls with the "
            "temperature, at 0 to the mask that is deployed (default: worked out where the schedule is, else "
            "1, as published)"
        },
    )
    mask_samples: Optional[int] = field(
        default=None,
        metadata={
            "help": "masks that the sampler draws at every training step, which the sentences of a batch "
            "take in turn: the more, the steadier the scores' gradient (default: worked out where the "
            "schedule is, else 1, as published)"
        },
    )


class DSPTransformerModel(GatedTransformerModel):
    """With `num_of_heads` = K: relaxed or straight-through gates that learn which K heads to keep."""

    method = "dsp"
    by_hand = {
        **GatedTransformerModel.by_hand,
        "initial_temperature": 0.1,
        "final_temperature": 1e-8,
        "cooldown_steps": 15000,
        "final_noise": 1.0,
        "mask_samples": 1,
    }

    @classmethod
    def published(cls, options) -> Mapping[str, Any]:
        return {
            "annealing": not options["use_ste"] and options["sampler"] != "simple",
            "cooldown_steps": 15000 if options["joint_pruning"] else 250,
        }

    @classmethod
    def label(cls, options) -> str:
        if options["sampler"] == "simple" and cls.wants_gates(options):
            return "dsp-simple" if options["joint_pruning"] else "dsp-simple-pipelined"
        return "dsp-ste" if options["use_ste"] and options["joint_pruning"] else super().label(options)

    @classmethod
    def check_options(cls, options) -> None:
        super().check_options(options)
        SubsetOptions.of(options).check()
        if not cls.wants_gates(options):
            for name in ("use_ste", "sampler", "annealing"):
                if options[name]:
                    raise cls.needs_gates(name)

    @classmethod
    def warnings(cls, options) -> list[str]:
        if not cls.wants_gates(options):
            return []
        return SubsetOptions.of(options).warnings(None, dashed, options["init_scores"])

    @classmethod
    def build_gates(cls, head_map, options) -> nn.Module:
        return SubsetOptions.of(options).gates(head_map, budget_of(head_map, options))


@dataclass
class DSPTranslationConfig(GatedTranslationConfig):
    pass


class DSPTranslationTask(GatedTranslationTask):
    """Translation whose model keeps K attention heads."""

    def __init__(self, cfg: DSPTranslationConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        self._annealed: Optional[SubsetOptions] = None

    def prepare(self, cfg, model_class, options) -> None:
        super().prepare(cfg, model_class, options)
        if "annealing" in options and options["annealing"]:
            self._annealed = SubsetOptions.of(options)

    def get_batch_iterator(self, dataset, *args, **kwargs):
        iterator = super().get_batch_iterator(dataset, *args, **kwargs)
        if self._annealed is not None and is_training_pass(kwargs) and not self.is_finished:
            updates = self._last_update(len(iterator), kwargs.get("epoch", 1))
            for warning in self._annealed.warnings(updates, dashed):
                logger.warning(warning)
            self._annealed = None  # once a run is enough
        return iterator

    def _last_update(self, batches_per_epoch: int, epoch: int) -> Optional[int]:
        """Work out at which update the run ends, about; None where no option says it."""
        # a reset counts updates from 0 again, but not epochs: the published pipelined run is epoch 61 alone
        stand = Stand(epoch=epoch if self.cfg.reset_optimizer else 1)
        return Limits.of(self.cfg).last_update(batches_per_epoch, stand)
