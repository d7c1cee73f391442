"""Differentiable subset pruning on fairseq (Li, Cotterell and Sachan, 2021): model, options and task."""

import logging
import math
from dataclasses import dataclass, field
from typing import Optional

from torch import nn

from ....gating import SubsetOptions
from ....options.errors import OptionError, dashed
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
        SubsetOptions.of(options).check()
        if not cls.wants_gates(options):
            option, meaning = cls.gates_option
            for name in ("use_ste", "annealing"):
                if options[name]:
                    raise OptionError(name, f"needs {{}} {meaning}", option)

    @classmethod
    def warnings(cls, options) -> list[str]:
        return SubsetOptions.of(options).warnings(None, dashed) if cls.wants_gates(options) else []

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
        updates_per_epoch = math.ceil(batches_per_epoch / max(1, self.cfg.update_freq[0]))
        limits = [self.cfg.max_update] if self.cfg.max_update else []
        if self.cfg.max_epoch:
            # a reset counts updates from 0 again, but not epochs: the published pipelined run is epoch 61
            # alone
            uncounted = epoch - 1 if self.cfg.reset_optimizer else 0
            limits.append((self.cfg.max_epoch - uncounted) * updates_per_epoch)
        return min(limits, default=None)
