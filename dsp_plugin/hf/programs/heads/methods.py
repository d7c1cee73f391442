"""The pruning methods as groups of options: what they check, which gates they make, what they tell the user.

An option of the schedule that is None was not given: `options` has what stands for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from torch import nn
from transformers import PreTrainedModel

from ....gating import BudgetOptions, ClosingOptions, HeadBudget, HeadMap, SubsetOptions, schedule_of
from ....gating.importance.start import check_start
from ....gating.methods.advice import closed_heads
from ....gating.methods.closing_options import check_closing, closing_of, label_of
from ....gating.methods.schedule_words import is_off, schedule_in_words
from ....gating.methods.subset_options import check_sampler, check_straight_through, without_say
from ....options.errors import OptionError, underscored
from ...heads.schedules import BY_HAND, constants_of, work_out
from ..chassis.arguments import option
from ..chassis.output_folder import WORKED_OUT

# what the schedule that is worked out depends on, beside the budget
_HOW = ("use_ste", "sampler", "closing", "reopening", "concentrate")


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
    pruning_warmup_updates: Annotated[int | None, "amount"] = option(
        "train with all heads open for so many updates before the choice of heads starts; a cool-down counts "
        "from there; default: worked out (auto), else 0"
    )
    heads_per_kind: str | None = option(
        "heads to keep of each kind of attention instead of K in all: encoder-self=20,decoder-cross=10,..."
    )
    min_heads_per_block: Annotated[int | None, "amount"] = option(
        "heads that every attention block keeps at least, within the budget; default: worked out (auto), "
        "else 0"
    )
    worked_out: dict[str, Any] = field(default_factory=dict, init=False)

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

    def adopt(self, settings: Mapping[str, Any], head_map: HeadMap) -> None:
        """Take what names a model that is only scored, and its figures, from its training's settings.

        A minimum that was worked out for its heads is taken, too, where the budget has room for it.
        """
        if str(settings.get("method", "")).split("-")[0] != self.label().split("-")[0]:
            return
        noted = {**settings, **settings.get(WORKED_OUT, {})}
        for name in self._of_training:
            setattr(self, name, noted.get(name, getattr(self, name)))
        minimum = settings.get(WORKED_OUT, {}).get("min_heads_per_block")
        if minimum and self.min_heads_per_block is None:
            with contextlib.suppress(OptionError):
                BudgetOptions.of({**self.options, "min_heads_per_block": minimum}).budget(head_map)
                self.min_heads_per_block = minimum

    @property
    def schedule(self) -> str:
        """How the schedule is found, see `schedule_of`."""
        return "by hand"

    @property
    def asked(self) -> dict[str, Any]:
        """All options as they were asked for; None, and False of a flag, where they were not."""
        return {name: value for name, value in vars(self).items() if name != "worked_out"}

    @property
    def options(self) -> dict[str, Any]:
        """All options, with what stands for those that were not asked for."""
        given = {name: value for name, value in self.asked.items() if not is_off(value)}
        return {**self.asked, **self.constants(), **self.worked_out, **given}

    def constants(self) -> dict[str, Any]:
        """Return what stands for options that were not asked for, unless it is worked out."""
        return dict(BY_HAND)

    def settings(self) -> dict[str, Any]:
        """Return the method's part of what must not change between the start of a training and its resume."""
        return self.options

    def work_out(self, model: PreTrainedModel, updates: int, noted: Mapping[str, Any]) -> list[str]:
        """Fill in `worked_out` for a training of so many updates, where the options leave something open.

        Args:
            noted: what was worked out when the training began, which holds; else empty.

        Returns:
            what to tell the user.

        Raises:
            OptionError: the training is too short.
        """
        return []

    def figures(self) -> dict[str, Any]:
        """Return what the record of a training says of the method."""
        return {}

    @property
    def has_budget(self) -> bool:
        """Whether the options say how many heads are to stay."""
        return BudgetOptions.of(self.options).given

    def check(self) -> None:
        """Raise a ValueError naming options that exclude each other; numbers are `option_checks`'."""
        BudgetOptions.of(self.options).check()

    def budget(self, head_map: HeadMap) -> HeadBudget | None:
        """Return the budget of exactly so many heads; None where no number was given."""
        return BudgetOptions.of(self.options).budget(head_map)


@dataclass
class ScheduledArguments(GateArguments):
    """What a method takes whose schedule is by hand, published or worked out."""

    pruning_schedule: str | None = option(
        "auto: the options of the schedule are worked out from the length of the training, and told when it "
        "begins; published: they are the paper's, where not given; default: auto where none of them is given"
    )
    init_scores: str | None = option(
        "what the scores start from, when the choice of heads does: importance (of the heads, on the "
        "training set) or random; default: worked out (auto), else random"
    )

    _of: ClassVar[str] = ""  # the method, as `Setting` has it

    @property
    def schedule(self) -> str:
        return schedule_of(self.asked)

    def constants(self) -> dict[str, Any]:
        ste, sampler, asked = self.asked.get("use_ste"), self.asked.get("sampler"), self.asked
        how, joint = self.schedule, self.joint_pruning
        return constants_of(self._of, how, joint, bool(ste), sampler or "relaxed", closing_of(asked))

    def settings(self) -> dict[str, Any]:
        how = self.schedule
        found = dict(self.asked if how == "auto" else self.options)
        found.pop("pruning_schedule")
        return {"pruning_schedule": how, **found}  # first, because the others follow from it

    def work_out(self, model: PreTrainedModel, updates: int, noted: Mapping[str, Any]) -> list[str]:
        how, asked = self.schedule, self.asked
        if how == "by hand":
            return []
        if how == "published":
            return [schedule_in_words(how, self._shown(), spelling=self._spelled)]
        names = (
            "num_of_heads",
            "heads_per_kind",
            "use_ste",
            "sampler",
            "closing",
            "reopening",
            "concentrate",
        )
        budget = {name: asked[name] for name in names if asked.get(name) is not None}
        found = noted or work_out(model, updates, self.joint_pruning, method=self._of, **budget)
        self.worked_out = {name: value for name, value in found.items() if is_off(asked.get(name))}
        how += ", as noted" if noted else ""
        return [schedule_in_words(how, self._shown(), updates, self._spelled)]

    def figures(self) -> dict[str, Any]:
        return {"schedule": {"how": self.schedule, **self._shown()}}

    def check(self) -> None:
        super().check()
        check_start(self.init_scores, self.has_budget)

    def _shown(self) -> dict[str, Any]:
        """Return the options of the schedule that have a say."""
        options = self.options
        beside = ("sampler", "annealing", "use_ste", "min_heads_per_block", "init_scores")
        names = [*(self.worked_out if self.schedule == "auto" else self.constants()), *beside]
        unused = without_say(options)
        return {name: options[name] for name in names if name in options and name not in unused}

    def _spelled(self, name: str) -> str:
        return name if name in self.asked else name.replace("_", " ")


@dataclass
class DSPArguments(ScheduledArguments):
    """Differentiable subset pruning (Li, Cotterell and Sachan, 2021)."""

    pruning_lr: Annotated[float | None, "positive"] = option(
        "learning rate of the scores, by the model's schedule; default: worked out (auto), else 0.5"
    )
    use_ste: bool = option("straight-through: hard top-K forward, identity backward; no temperature", False)
    sampler: str | None = option(
        "how masks are drawn in training: relaxed (DSP's relaxed top-K) or simple (SIMPLE: masks of exactly "
        "K heads, their gradient that of the marginals; no temperature, or with --annealing one that falls); "
        "default: relaxed"
    )
    annealing: bool = option(
        "cool the sampler from --initial_temperature to --final_temperature over --cooldown_steps", False
    )
    initial_temperature: Annotated[float | None, "temperature"] = option(
        "temperature of the sampler at the start; default: worked out (auto), else 1000"
    )
    final_temperature: Annotated[float | None, "temperature"] = option(
        "the same at the end, and throughout without --annealing; default: worked out (auto), else 1e-8"
    )
    cooldown_steps: Annotated[int | None, "amount"] = option(
        "updates of the cool-down; default: worked out (auto), else 25000 (published, pipelined: 8333)"
    )
    final_noise: Annotated[float | None, "probability"] = option(
        "scale of the sampler's noise at the end of the cool-down, 0..1; default: worked out (auto), else 1"
    )
    mask_samples: Annotated[int | None, "count"] = option(
        "masks that a step draws, for the examples of a batch in turn; default: worked out (auto), else 1"
    )

    _of: ClassVar[str] = "dsp"
    _of_training: ClassVar[Sequence[str]] = ("joint_pruning", "use_ste", "sampler")

    def label(self) -> str:
        if self.sampler == "simple":
            return "dsp-simple" if self.joint_pruning else "dsp-simple-pipelined"
        if not self.joint_pruning:
            return "dsp-pipelined"
        return "dsp-ste" if self.use_ste else "dsp-joint"

    def check(self) -> None:
        if not self.has_budget:
            raise OptionError("num_of_heads", "K, the number of heads to keep, is missing")
        check_straight_through(self.asked)
        check_sampler(self.asked)
        self.subset().check()
        super().check()
        self.subset().cooling()

    def subset(self) -> SubsetOptions:
        """Return the sampler's options."""
        return SubsetOptions.of(self.options)

    def build(self, head_map: HeadMap) -> nn.Module:
        return self.subset().gates(head_map, self.budget(head_map))

    def warnings(self, updates: int) -> list[str]:
        return self.subset().warnings(updates, underscored, self.options["init_scores"])


@dataclass
class VoitaArguments(ScheduledArguments):
    """Stretched concrete gates under an L0 penalty (Voita et al., 2019)."""

    num_of_heads: Annotated[int | None, "amount"] = option(
        "K: keep exactly the K heads with the largest log_a; without it the penalty alone decides how many "
        "stay"
    )
    pruning_lr: Annotated[float | None, "positive"] = option(
        "learning rate of the gates, by the model's schedule; default: worked out (auto), else 0.1"
    )
    l0_penalty: Annotated[float | None, "non-negative"] = option(
        "lambda, the price of an open head, added to the mean loss; default: worked out (auto), 0.0015 "
        "(published), else 0.02 / N, so that all N heads of the model cost 0.02"
    )

    closing: str | None = option(
        "what closes gates: penalty (a fixed price, --l0_penalty), lagrangian (a price that rises until the "
        "closed share is that of --num_of_heads; CoFi) or pass (a growing price of gates that are neither "
        "surely open nor surely closed; PASS); default: penalty"
    )
    closing_updates: Annotated[int | None, "amount"] = option(
        "with --closing lagrangian: updates of the choice of heads in which the share that is to be closed "
        "rises from 0 to its end; with pass: updates in which the price grows a thousandfold; default: "
        "worked out (auto), else 5000 (pass: 1000)"
    )
    round_updates: Annotated[int | None, "count"] = option(
        "updates in a round of --closing pass and of --reopening; default: worked out (auto), else an epoch's"
    )
    reopening: str | None = option(
        "what is done to scores at the beginning of a round: off, clip (held to -5..5) or reopen (closed "
        "gates open again, too, with the confidence of their heads); default: reopen with --closing pass, "
        "else off"
    )
    concentrate: bool = option("with --closing pass: empty whole attention blocks (PASSCONC)", False)

    _of: ClassVar[str] = "voita"
    _of_training: ClassVar[Sequence[str]] = (
        *("joint_pruning", "l0_penalty", "closing", "reopening", "concentrate"),
    )

    def label(self) -> str:
        name = label_of(self.asked)
        if not name:
            return "voita-joint" if self.joint_pruning else "voita-pipelined"
        return name if self.joint_pruning else f"{name}-pipelined"

    def check(self) -> None:
        check_closing(self.asked)
        super().check()

    def build(self, head_map: HeadMap) -> nn.Module:
        return ClosingOptions.of(self.options).gates(head_map, self.budget(head_map))

    def warnings(self, updates: int) -> list[str]:
        return ClosingOptions.of(self.options).warnings(updates, underscored)

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
