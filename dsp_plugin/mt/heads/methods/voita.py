"""Voita's gates on fairseq (Voita et al., 2019): model, options and task."""

from dataclasses import dataclass, field
from typing import Optional

from torch import nn

from ....gating import BudgetOptions, ConcreteGates
from ....gating.methods.advice import closed_heads
from ....options.errors import OptionError, dashed
from ...checkpoints.flat_config import GatedTransformerConfig
from ..gated_model import GatedTransformerModel, budget_of
from ..gated_task import GatedTranslationConfig, GatedTranslationTask


@dataclass
class VoitaTransformerConfig(GatedTransformerConfig):
    l0_penalty: Optional[float] = field(
        default=None,
        metadata={
            "help": "lambda, the price of an open head (default: no pruning). It is added to the "
            "token-summed loss once a "
            "micro-batch: 200 means about 200 / tokens of a micro-batch on the mean loss. Without "
            "--num-of-heads it "
            "alone decides how many heads stay"
        },
    )
    pruning_lr: Optional[float] = field(
        default=None,
        metadata={
            "help": "constant learning rate of the gates (default: --lr and its schedule, as in the "
            "reference program)"
        },
    )


class VoitaTransformerModel(GatedTransformerModel):
    """With `l0_penalty`: stretched concrete gates (Voita et al.); with `num_of_heads` exactly K stay."""

    method = "voita"
    gates_option = ("l0_penalty", "LAMBDA, the price of an open head")

    @classmethod
    def wants_gates(cls, options) -> bool:
        return options["l0_penalty"] is not None

    @classmethod
    def has_penalty(cls, options) -> bool:
        return bool(options["l0_penalty"])

    @classmethod
    def check_options(cls, options) -> None:
        super().check_options(options)
        if BudgetOptions.of(options).given and not cls.wants_gates(options):
            option, meaning = cls.gates_option
            raise OptionError("num_of_heads", f"and {{}} need {{}} {meaning}", "heads_per_kind", option)

    @classmethod
    def build_gates(cls, head_map, options) -> nn.Module:
        return ConcreteGates(head_map, budget_of(head_map, options), options["l0_penalty"])

    @classmethod
    def sparsifies(cls, options) -> bool:
        return cls.wants_gates(options) and not BudgetOptions.of(options).given

    @classmethod
    def remarks(cls, options, gates: ConcreteGates) -> list[str]:
        """Say how many heads lambda has left open, and what to change where that is none or all."""
        return closed_heads(gates, dashed)


@dataclass
class VoitaTranslationConfig(GatedTranslationConfig):
    pass


class VoitaTranslationTask(GatedTranslationTask):
    """Translation whose model closes attention heads under an L0 penalty."""
