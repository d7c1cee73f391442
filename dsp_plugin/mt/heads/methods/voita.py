"""Voita's gates on fairseq (Voita et al., 2019): model, options and task."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from torch import nn

from ....gating import BudgetOptions, ClosingOptions, HeadScores
from ....gating.methods.advice import closed_heads
from ....gating.methods.closing_options import CLOSING_UPDATES, check_closing, closing_of, label_of
from ....options.errors import OptionError, dashed
from ...checkpoints.flat_config import ScheduledTransformerConfig
from ...training.run_length import mean_tokens
from ..gated_model import GatedTransformerModel, budget_of
from ..gated_task import GatedTranslationConfig, GatedTranslationTask
from ..unit_costs import unit_parameters


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
    closing: Optional[str] = field(
        default=None,
        metadata={
            "help": "what closes gates: penalty (a fixed price, --l0-penalty), lagrangian (a price that "
            "rises until the closed share is that of the budget; CoFi) or pass (a price of gates that are "
            "neither surely open nor surely closed, which doubles every round until exactly so many are "
            "closed; PASS) (default: penalty)"
        },
    )
    closing_updates: Optional[int] = field(
        default=None,
        metadata={
            "help": "with --closing lagrangian: updates of the choice of heads in which the share that is to "
            "be closed rises from 0 to its end (default: worked out where the schedule is, else 5000)"
        },
    )
    cost_share: Optional[float] = field(
        default=None,
        metadata={
            "help": "with --closing lagrangian, in place of --num-of-heads: the units that stay have so much "
            "of the parameters of all units, 0..1; heads and --neurons are weighed together (default: a "
            "number of heads)"
        },
    )

    round_updates: Optional[int] = field(
        default=None,
        metadata={
            "help": "updates in a round of --closing pass and of --reopening (default: worked out where the "
            "schedule is, else those of an epoch)"
        },
    )
    reopening: Optional[str] = field(
        default=None,
        metadata={
            "help": "what is done to scores at the beginning of a round: off, clip (held to -5..5) or reopen "
            "(closed gates open again, too, with the confidence of their heads) (default: reopen with "
            "--closing pass, else off)"
        },
    )
    concentrate: bool = field(
        default=False, metadata={"help": "with --closing pass: empty whole attention blocks (PASSCONC)"}
    )


class VoitaTransformerModel(GatedTransformerModel):
    """With `l0_penalty`: stretched concrete gates (Voita et al.); with `num_of_heads` exactly K stay.

    With another `closing` the budget itself closes them, instead of a price.
    """

    method = "voita"
    gates_options = ("num_of_heads", "heads_per_kind", "l0_penalty")
    by_hand = {**GatedTransformerModel.by_hand, "pruning_lr": None}

    @classmethod
    def constants(cls, options) -> Mapping[str, Any]:
        if closing_of(options) == "penalty":
            return cls.by_hand
        updates = {"closing_updates": CLOSING_UPDATES["lagrangian"]}
        return {**cls.by_hand, "pruning_lr": 0.2, **(updates if closing_of(options) == "lagrangian" else {})}

    @classmethod
    def asks_for_gates(cls, options) -> bool:
        return cls.wants_gates(options) or has_budget(options)

    @classmethod
    def as_options(cls, found, head_map, batches) -> dict[str, Any]:
        """Turn the price of all heads on a token's mean loss into lambda, on a batch's summed loss."""
        if "open_cost" not in found:
            return found
        price = found["open_cost"] / max(1, head_map.num_heads) * mean_tokens(batches())
        rest = {name: value for name, value in found.items() if name != "open_cost"}
        return {**rest, "l0_penalty": float(f"{price:.4g}")}

    @classmethod
    def wants_gates(cls, options) -> bool:
        if closing_of(options) == "penalty":
            return options["l0_penalty"] is not None
        return has_budget(options)

    @classmethod
    def has_penalty(cls, options) -> bool:
        return bool(options["l0_penalty"]) or closing_of(options) != "penalty"

    @classmethod
    def label(cls, options) -> str:
        name = label_of(options)
        if not name or not cls.wants_gates(options):
            return super().label(options)
        return f"{name}-pipelined" if cls.freezes_weights(options) else name

    @classmethod
    def check_given(cls, given) -> None:
        super().check_given(given)
        check_closing(given, of_mean_loss=False)

    @classmethod
    def check_options(cls, options) -> None:
        if options.get("pruning_schedule") == "auto" and not has_budget(options):
            raise OptionError(
                "pruning_schedule", "auto needs {} K, the number of heads to keep", "num_of_heads"
            )
        if BudgetOptions.of(options).given and not cls.wants_gates(options):
            reason = "and {} need {} LAMBDA, the price of an open head"
            raise OptionError("num_of_heads", reason, "heads_per_kind", "l0_penalty")
        super().check_options(options)

    @classmethod
    def length_warnings(cls, options, updates) -> list[str]:
        return ClosingOptions.of(options).warnings(updates, dashed)

    @classmethod
    def build_gates(cls, head_map, options) -> nn.Module:
        costs = unit_parameters(head_map, options)
        budget = budget_of(head_map, options)
        return ClosingOptions.of(options).gates(head_map, budget, costs, of_mean_loss=False)

    @classmethod
    def sparsifies(cls, options) -> bool:
        return cls.wants_gates(options) and not BudgetOptions.of(options).given

    @classmethod
    def remarks(cls, options, gates: HeadScores) -> list[str]:
        """Say how many heads were closed, and what to change where those are none, all, or too few."""
        return closed_heads(gates, dashed)


def has_budget(options: Mapping[str, Any]) -> bool:
    """Return whether the options say how many units are to stay, or what they may cost."""
    return BudgetOptions.of(options).given or options.get("cost_share") is not None


@dataclass
class VoitaTranslationConfig(GatedTranslationConfig):
    pass


class VoitaTranslationTask(GatedTranslationTask):
    """Translation whose model closes attention heads under an L0 penalty."""
