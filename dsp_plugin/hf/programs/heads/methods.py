"""The pruning methods as groups of options: what they check, which gates they make, what they tell the user.

Defaults are those of the papers' BERT programs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import nn

from ....gating import BudgetOptions, ConcreteGates, HeadBudget, HeadMap, SubsetOptions
from ....gating.methods.advice import closed_heads
from ....options.errors import OptionError, underscored
from ..chassis.arguments import option


@dataclass
class GateArguments:
    """What every method with learned gates takes, and what it is asked for; a method is a subclass."""

    num_of_heads: Annotated[int | None, "amount"] = option(
        "K: attention heads to keep, exactly, of all heads of the model"
    )
    joint_pruning: bool = option(
        "train the model and the choice of heads together; without it the weights stay as they are and only "
        "the choice is learned, on a model that was trained before (pipelined)",
        False,
    )
    pruning_warmup_updates: Annotated[int, "amount"] = option(
        "train with all heads open for so many updates before the choice of heads starts; a cool-down counts "
        "from there",
        0,
    )
    heads_per_kind: str | None = option(
        "heads to keep of each kind of attention instead of K in all: encoder-self=20,decoder-cross=10,..."
    )
    min_heads_per_block: Annotated[int, "amount"] = option(
        "heads that every attention block keeps at least, within the budget", 0
    )

    # a method whose scores have a learning rate of their own has it as an option
    pruning_lr: ClassVar[float | None] = None
    # options that a model's name in the records tells
    _of_training: ClassVar[Sequence[str]] = ("joint_pruning",)

    def label(self) -> str:
        """Return the method's name in the records of a model that had all its heads."""
        raise NotImplementedError

    def build(self, head_map: HeadMap) -> nn.Module:
        """Make the gates. Raises: ValueError: a budget that the model's heads cannot meet."""
        raise NotImplementedError

    def warnings(self, updates: int) -> list[str]:
        """Return what a user should know before a training of so many updates."""
        return []

    def remarks(self, gates: nn.Module) -> list[str]:
        """Return what a user should know after it."""
        return []

    def adopt(self, settings: Mapping[str, Any]) -> None:
        """Take what names a model that is only scored, and its figures, from its training's settings."""
        if str(settings.get("method", "")).split("-")[0] == self.label().split("-")[0]:
            for name in self._of_training:
                setattr(self, name, settings.get(name, getattr(self, name)))

    @property
    def has_budget(self) -> bool:
        """Whether the options say how many heads are to stay."""
        return BudgetOptions.of(vars(self)).given

    def check(self) -> None:
        """Raise a ValueError naming options that exclude each other; numbers are `option_checks`'."""
        BudgetOptions.of(vars(self)).check()

    def budget(self, head_map: HeadMap) -> HeadBudget | None:
        """Return the budget of exactly so many heads; None where no number was given."""
        return BudgetOptions.of(vars(self)).budget(head_map)


@dataclass
class DSPArguments(GateArguments):
    """Differentiable subset pruning (Li, Cotterell and Sachan, 2021)."""

    pruning_lr: Annotated[float, "positive"] = option(
        "learning rate of the head scores, by the model's schedule", 0.5
    )
    use_ste: bool = option("straight-through: hard top-K forward, identity backward; no temperature", False)
    annealing: bool = option(
        "cool the sampler from --initial_temperature to --final_temperature over --cooldown_steps", False
    )
    initial_temperature: Annotated[float, "temperature"] = option(
        "temperature of the sampler at the start", 1000.0
    )
    final_temperature: Annotated[float, "temperature"] = option(
        "temperature at the end of the cool-down, and throughout without --annealing", 1e-8
    )
    cooldown_steps: Annotated[int, "amount"] = option("updates of the cool-down", 25000)

    _of_training: ClassVar[Sequence[str]] = ("joint_pruning", "use_ste")

    def label(self) -> str:
        if not self.joint_pruning:
            return "dsp-pipelined"
        return "dsp-ste" if self.use_ste else "dsp-joint"

    def check(self) -> None:
        if not self.has_budget:
            raise OptionError("num_of_heads", "K, the number of heads to keep, is missing")
        SubsetOptions.of(vars(self)).check()
        super().check()
        SubsetOptions.of(vars(self)).cooling()

    def build(self, head_map: HeadMap) -> nn.Module:
        return SubsetOptions.of(vars(self)).gates(head_map, self.budget(head_map))

    def warnings(self, updates: int) -> list[str]:
        return SubsetOptions.of(vars(self)).warnings(updates, underscored)


# What all heads open cost under Voita's penalty where no lambda is given. A fixed lambda is dearer the more
# heads there are, and with the published 0.0015 no gate of a small model (72 heads) stays open on a small
# task.
OPEN_COST = 0.02


@dataclass
class VoitaArguments(GateArguments):
    """Stretched concrete gates under an L0 penalty (Voita et al., 2019)."""

    num_of_heads: Annotated[int | None, "amount"] = option(
        "K: keep exactly the K heads with the largest log_a; without it the penalty alone decides how many "
        "stay"
    )
    pruning_lr: Annotated[float, "positive"] = option(
        "learning rate of the gates, by the model's schedule", 0.1
    )
    l0_penalty: Annotated[float | None, "non-negative"] = option(
        "lambda, the price of an open head, added to the mean loss; default: 0.02 / N, so that all N heads "
        "of the model cost 0.02"
    )

    _of_training: ClassVar[Sequence[str]] = ("joint_pruning", "l0_penalty")

    def label(self) -> str:
        return "voita-joint" if self.joint_pruning else "voita-pipelined"

    def build(self, head_map: HeadMap) -> nn.Module:
        if self.l0_penalty is None:
            self.l0_penalty = OPEN_COST / max(1, head_map.num_heads)
        return ConcreteGates(head_map, self.budget(head_map), self.l0_penalty)

    def remarks(self, gates: nn.Module) -> list[str]:
        return closed_heads(gates, underscored)


@dataclass
class PrunedArguments:
    """What a training with head gates writes beside its records."""

    no_pruned: bool = option("do not write the model with its dead heads removed (output_dir/pruned)", False)
    intermediate_masks: bool = option("also write the mask every 1000 updates (output_dir/masks)", False)


DSPArguments._argument_group_name = "Differentiable subset pruning"  # type: ignore[attr-defined]
VoitaArguments._argument_group_name = "Voita's gates"  # type: ignore[attr-defined]
PrunedArguments._argument_group_name = "Pruned models"  # type: ignore[attr-defined]
