"""`dsp_transformer`: fairseq's transformer that learns which K of its attention heads to keep."""

from dataclasses import dataclass, field

from fairseq.models import register_model
from torch import nn

from ..gating import ExponentialCooling, RelaxedSubset, StraightThroughSubset, constant_temperature
from ..gating.advice import frozen_scores
from ..mt.checkpoints.flat_config import GatedTransformerConfig
from ..mt.heads.gated_model import GatedTransformerModel, budget_of, register_architectures

__all__ = ["DSPTransformerConfig", "DSPTransformerModel"]


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


@register_model("dsp_transformer", dataclass=DSPTransformerConfig)
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
    """The temperature schedule that the options ask for; None without annealing."""
    if not options["annealing"]:
        return None
    return ExponentialCooling(
        options["initial_temperature"],
        options["final_temperature"],
        options["cooldown_steps"],
        options["pruning_warmup_updates"],
    )


register_architectures("dsp_transformer")
