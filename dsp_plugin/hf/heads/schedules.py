"""The schedule of a choice of heads on Transformers: the papers' constants, or worked out for a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...gating import (
    BudgetOptions,
    ClosingOptions,
    HeadMap,
    HeadScores,
    Setting,
    SubsetOptions,
    derive,
    parse_heads_per_kind,
)
from ...gating.importance.start import check_start
from ...gating.methods.closing_options import CLOSING_UPDATES, reopening_of
from ...gating.methods.recipe import START_WIDTH
from .importance import Collate
from .importance_start import ImportanceStart
from .units import head_map_of

BY_HAND: Mapping[str, Any] = {"pruning_warmup_updates": 0, "min_heads_per_block": 0, "init_scores": "random"}
"""What is not given of the options of every method."""

_SUBSET = {
    "pruning_lr": 0.5,
    "initial_temperature": 1000.0,
    "final_temperature": 1e-8,
    "cooldown_steps": 25000,
    "final_noise": 1.0,
    "mask_samples": 1,
}
_CONCRETE = {"pruning_lr": 0.1, "l0_penalty": None}


def constants_of(
    method: str,
    how: str,
    joint: bool,
    use_ste: bool = False,
    sampler: str = "relaxed",
    closing: str = "penalty",
) -> dict[str, Any]:
    """Return what stands for options that were not given, as in the papers' BERT programs.

    Args:
        method: "dsp" or "voita".
        how: "published" completes the recipe of the paper, too; see `schedule_of`.
    """
    found = {**BY_HAND, **(_CONCRETE if method == "voita" else _SUBSET)}
    if closing in CLOSING_UPDATES:
        rate = {"pruning_lr": 0.5} if closing == "pass" else {}
        return {**found, **rate, "closing_updates": CLOSING_UPDATES[closing]}
    if how != "published":
        return found
    if method == "voita":
        return {**found, "l0_penalty": 0.0015}
    cools = not use_ste and sampler != "simple"
    return {**found, "annealing": cools, "cooldown_steps": 25000 if joint else 8333}


def work_out(
    model: nn.Module,
    updates: int,
    joint: bool,
    num_of_heads: int | None = None,
    heads_per_kind: str | None = None,
    method: str = "dsp",
    use_ste: bool = False,
    neurons: int | None = None,
    heads: bool = True,
    sampler: str = "relaxed",
    closing: str = "penalty",
    reopening: str | None = None,
    concentrate: bool = False,
) -> dict[str, Any]:
    """Work out the options of a schedule, name -> value. Arguments and errors as `derive_schedule`."""
    head_map, per_kind = head_map_of(model, neurons, heads), parse_heads_per_kind(heads_per_kind)
    again = closing == "pass" or reopening_of({"closing": closing, "reopening": reopening}) != "off"
    how = {"use_ste": use_ste, "sampler": sampler, "closing": closing, "reopens": again}
    found = derive(
        Setting(method, joint, updates, head_map, num_of_heads, per_kind, **how, concentrate=concentrate)
    )
    if found.pop("pruning_lr_decay_steps", None):
        found["scores_lr_schedule"] = "linear"  # whatever --lr_scheduler_type is
    if "open_cost" in found:
        found["l0_penalty"] = found.pop("open_cost") / max(1, head_map.num_heads)
    return found


def start_of(
    options: Mapping[str, Any], model: nn.Module, dataset: Any, collate: Collate, batch_size: int, seed: int
) -> ImportanceStart | None:
    """Make what the scores start from; None where that is chance. Arguments as `ImportanceStart`."""
    if options["init_scores"] != "importance":
        return None
    return ImportanceStart(model, dataset, collate, batch_size, options.get("init_width", START_WIDTH), seed)


@dataclass(frozen=True)
class Schedule:
    """A schedule that was worked out, and what it makes.

    Attributes:
        method: "dsp" or "voita".
        options: name -> value of all of the method's options.
    """

    method: str
    options: Mapping[str, Any]

    @property
    def pruning_lr(self) -> float:
        """The learning rate of the scores, for `pruning_optimizers`."""
        return self.options["pruning_lr"]

    @property
    def scores_lr_schedule(self) -> str | None:
        """The schedule of that rate, for `pruning_optimizers`; None for the model's."""
        return self.options.get("scores_lr_schedule")

    @property
    def warmup_updates(self) -> int:
        """The updates with all heads open, for `gate_heads`."""
        return self.options["pruning_warmup_updates"]

    def gates(self, head_map: HeadMap) -> HeadScores:
        """Make the gates. Errors as `HeadBudget`."""
        budget = BudgetOptions.of(self.options).budget(head_map)
        if self.method == "voita":
            return ClosingOptions.of(self.options).gates(head_map, budget)
        return SubsetOptions.of(self.options).gates(head_map, budget)

    def start(
        self, model: nn.Module, dataset: Any, collate: Collate, batch_size: int = 32, seed: int = 1
    ) -> ImportanceStart | None:
        """Make what the scores start from, for `HeadGatesCallback`; None where that is chance."""
        return start_of(self.options, model, dataset, collate, batch_size, seed)


def derive_schedule(
    model: nn.Module,
    updates: int,
    joint: bool,
    num_of_heads: int | None = None,
    heads_per_kind: str | None = None,
    method: str = "dsp",
    use_ste: bool = False,
    neurons: int | None = None,
    heads: bool = True,
    sampler: str = "relaxed",
    closing: str = "penalty",
    reopening: str | None = None,
    concentrate: bool = False,
    **given: Any,
) -> Schedule:
    """Work out the schedule of a training of so many updates, as `--pruning_schedule auto` does.

    Args:
        model: the one whose heads are to be gated.
        updates: of the whole run, see `training_steps`.
        joint: the model is trained, too.
        num_of_heads: K, to keep of all heads; heads_per_kind: of each kind instead, see
            `parse_heads_per_kind`. Voita's gates can do without.
        method: "dsp" or "voita".
        use_ste: straight-through.
        neurons, heads: the units, see `head_map_of`. The numbers were found with heads.
        sampler: "relaxed" or "simple", see `SubsetOptions`.
        closing: "penalty", "lagrangian" or "pass"; reopening, concentrate: see `ClosingOptions`.
        given: options that win over what is worked out, such as `min_heads_per_block` and `init_scores`.

    Raises:
        OptionError: the run is too short, or there is no budget that the model's heads can meet.
    """
    budget = {"num_of_heads": num_of_heads, "heads_per_kind": heads_per_kind}
    units = {"neurons": neurons, "heads": heads}
    how = {"use_ste": use_ste, "sampler": sampler, "closing": closing}
    how |= {"reopening": reopening, "concentrate": concentrate}
    found = work_out(model, updates, joint, **budget, method=method, **how, **units)
    constants = constants_of(method, "auto", joint, closing=closing)
    options = {**constants, "annealing": False, **how, **budget, **found, **given}
    check_start(options["init_scores"], BudgetOptions.of(options).given)
    return Schedule(method, options)
