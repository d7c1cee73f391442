"""Voita's gates on fairseq (Voita et al., 2019): model, options and task."""

from dataclasses import dataclass, field
from typing import Any, Optional

from torch import nn

from ....gating import BudgetOptions, ConcreteGates
from ....gating.methods.advice import closed_heads
from ....options.errors import OptionError, dashed
from ...checkpoints.flat_config import ScheduledTransformerConfig
from ...training.run_length import mean_tokens
from ..gated_model import GatedTransformerModel, budget_of
from ..gated_task import GatedTranslationConfig, GatedTranslationTask


@dataclass
class VoitaTransformerConfig(ScheduledTransformerConfig):
    l0_penalty: Optional[float] = field(
        default=None,
        metadata={
            "help": "lambda, the price of an open head (default: worked out where --num-of-heads is given "
            "and nothing else of the schedule, else no pruning). It is added to the "
            "token-summed loss once a "
            "micro-batch: 200 means about 200 / tokens of a micro-batch on the mean loss. Without "
            "--num-of-heads it "
            "alone decides how many heads stay"
        },
    )
    pruning_lr: Optional[float] = field(
        default=None,
        metadata={
            "help": "learning rate of the gates (default: worked out where the schedule is, else "
            "--lr and its schedule, as in the reference program)"
        },
    )


class VoitaTransformerModel(GatedTransformerModel):
    """With `l0_penalty`: stretched concrete gates (Voita et al.); with `num_of_heads` exactly K stay."""

    method = "voita"
    gates_options = ("num_of_heads", "heads_per_kind", "l0_penalty")
    by_hand = {**GatedTransformerModel.by_hand, "pruning_lr": None}

    @classmethod
    def asks_for_gates(cls, options) -> bool:
        return cls.wants_gates(options) or BudgetOptions.of(options).given

    @classmethod
    def as_options(cls, found, head_map, batches) -> dict[str, Any]:
        """Turn the price of all heads on a token's mean loss into lambda, on a batch's summed loss."""
        price = found["open_cost"] / max(1, head_map.num_heads) * mean_tokens(batches())
        rest = {name: value for name, value in found.items() if name != "open_cost"}
        return {**rest, "l0_penalty": float(f"{price:.4g}")}

    @classmethod
    def wants_gates(cls, options) -> bool:
        return options["l0_penalty"] is not None

    @classmethod
    def has_penalty(cls, options) -> bool:
        return bool(options["l0_penalty"])

    @classmethod
    def check_options(cls, options) -> None:
        if options.get("pruning_schedule") == "auto" and not BudgetOptions.of(options).given:
            raise OptionError(
                "pruning_schedule", "auto needs {} K, the number of heads to keep", "num_of_heads"
            )
        if BudgetOptions.of(options).given and not cls.wants_gates(options):
            reason = "and {} need {} LAMBDA, the price of an open head"
            raise OptionError("num_of_heads", reason, "heads_per_kind", "l0_penalty")
        super().check_options(options)

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
