"""The options of differentiable subset pruning: the gates they make, and what to say of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ...options.errors import OptionError, Spelling
from ..budget import HeadBudget
from ..head_map import HeadMap
from ..head_scores import HeadScores
from ..sampling.schedule import ExponentialCooling, FallingNoise, constant_temperature
from .advice import frozen_scores, unfinished_cooldown
from .subset import RelaxedSubset, StraightThroughSubset


def check_straight_through(asked: Mapping[str, Any]) -> None:
    """Refuse what straight-through gates cannot have: they draw nothing.

    Their published command lines give temperatures, too, which do nothing and are let be.

    Args:
        asked: the method's options; None where they were not given.

    Raises:
        OptionError: naming the option.
    """
    for name in ("final_noise", "mask_samples"):
        if asked.get("use_ste") and asked.get(name) is not None:
            raise OptionError(
                name, "has no say where gates are straight-through: leave it or {} out", "use_ste"
            )


@dataclass(frozen=True)
class SubsetOptions:
    """Straight-through gates, or relaxed ones whose temperature falls or stays.

    Attributes:
        use_ste: straight-through, without a temperature.
        annealing: cool from `initial_temperature` to `final_temperature` over `cooldown_steps` updates, from
            update `pruning_warmup_updates` on; without it the final temperature holds throughout.
        final_noise: scale of the sampler's noise at the end of the cool-down, with which it falls from 1; the
            published sampler's stays 1.
        mask_samples: masks that a training pass draws, see `RelaxedSubset`.
    """

    use_ste: bool
    annealing: bool
    initial_temperature: float
    final_temperature: float
    cooldown_steps: int
    pruning_warmup_updates: int = 0
    final_noise: float = 1.0
    mask_samples: int = 1

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> SubsetOptions:
        """Take the sampler's options out of the method's; one that was not given has its default here."""
        known = ((field.name, options.get(field.name)) for field in fields(cls))
        return cls(**{name: value for name, value in known if value is not None})

    def check(self) -> None:
        """Raise an OptionError for two that exclude each other."""
        if self.use_ste and self.annealing:
            reason = "has no temperature: give either {} or {}"
            raise OptionError("use_ste", reason, "use_ste", "annealing")
        if self.use_ste and self.final_noise != 1.0:
            check_straight_through({"use_ste": True, "final_noise": self.final_noise})
        if self.final_noise != 1.0 and not self.annealing:
            reason = "is the noise at the end of a cool-down: give {}, too"
            raise OptionError("final_noise", reason, "annealing")
        self.noise()

    def cooling(self) -> ExponentialCooling:
        """Make the schedule of the temperature. Errors as `ExponentialCooling`."""
        if not self.annealing:
            return constant_temperature(self.final_temperature)
        return ExponentialCooling(
            self.initial_temperature, self.final_temperature, self.cooldown_steps, self.pruning_warmup_updates
        )

    def noise(self) -> FallingNoise | None:
        """Make the schedule of the noise; None where it stays. Errors as `FallingNoise`."""
        if self.final_noise == 1.0:
            return None
        return FallingNoise(self.final_noise, self.cooldown_steps, self.pruning_warmup_updates)

    def gates(self, head_map: HeadMap, budget: HeadBudget) -> HeadScores:
        """Make the gates that keep to a budget."""
        if self.use_ste:
            return StraightThroughSubset(head_map, budget)
        return RelaxedSubset(head_map, budget, self.cooling(), self.noise(), self.mask_samples)

    def warnings(self, updates: int | None, spelling: Spelling, init_scores: str = "random") -> list[str]:
        """Say what to know before a training of so many updates; None where their number is not known."""
        if self.use_ste:
            return []
        if not self.annealing:
            return frozen_scores(self.final_temperature, spelling, init_scores)
        return [] if updates is None else unfinished_cooldown(self.cooling(), updates, spelling)
