"""Differentiable subset pruning on fairseq (Li, Cotterell and Sachan, 2021): model, options and task."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from torch import nn

from ....gating import SubsetOptions
from ....options.errors import dashed
from ...checkpoints.flat_config import ScheduledTransformerConfig
from ..gated_model import GatedTransformerModel, budget_of
from ..gated_task import GatedTranslationConfig, GatedTranslationTask


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
    def length_warnings(cls, options, updates) -> list[str]:
        return SubsetOptions.of(options).warnings(updates, dashed) if options["annealing"] else []

    @classmethod
    def build_gates(cls, head_map, options) -> nn.Module:
        return SubsetOptions.of(options).gates(head_map, budget_of(head_map, options))


@dataclass
class DSPTranslationConfig(GatedTranslationConfig):
    pass


class DSPTranslationTask(GatedTranslationTask):
    """Translation whose model keeps K attention heads."""
