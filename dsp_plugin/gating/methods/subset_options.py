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
from .exact import ExactSubset
from .subset import RelaxedSubset, StraightThroughSubset

SAMPLERS = ("relaxed", "simple")
"""How masks are drawn: DSP's relaxed sample, or SIMPLE's exact one."""


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


_COOLING = ("initial_temperature", "final_temperature", "cooldown_steps")


def without_say(options: Mapping[str, Any]) -> set[str]:
    """Return which options of the sampler have no say in gates of these options (all of the method's)."""
    if options.get("use_ste"):
        return {*_COOLING, "annealing", "final_noise", "mask_samples"}
    if options.get("sampler") != "simple":
        return set()
    return {"final_noise"} if options.get("annealing") else {"final_noise", *_COOLING}


def check_sampler(asked: Mapping[str, Any]) -> None:
    """Refuse a sampler that is not known, and what the exact one (SIMPLE) cannot have.

    Args:
        asked: the method's options; None, and False of a switch, where they were not given.

    Raises:
        OptionError: naming the option.
    """
    sampler = asked.get("sampler")
    if sampler is not None and sampler not in SAMPLERS:
        raise OptionError("sampler", f"must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
    if sampler != "simple":
        return
    if asked.get("use_ste"):
        raise OptionError("use_ste", "draws nothing: leave it or {} out", "sampler")
    if asked.get("final_noise") is not None:
        raise OptionError(
            "final_noise", "has no say where masks are exact samples: leave it or {} out", "sampler"
        )
    for name in _COOLING:
        if asked.get(name) is not None and not asked.get("annealing"):
            reason = "has no say with {} simple, whose temperature is 1: leave it out, or give {}"
            raise OptionError(name, reason, "sampler", "annealing")


@dataclass(frozen=True)
class SubsetOptions:
    """Straight-through gates, or relaxed or exact ones whose temperature falls or stays.

    Attributes:
        use_ste: straight-through, without a temperature.
        annealing: cool from `initial_temperature` to `final_temperature` over `cooldown_steps` updates, from
            update `pruning_warmup_updates` on; without it the final temperature holds throughout.
        final_noise: scale of the sampler's noise at the end of the cool-down, with which it falls from 1; the
            published sampler's stays 1.
        mask_samples: masks that a training pass draws, see `RelaxedSubset`.
        sampler: of `SAMPLERS`; without `annealing` the exact one has a temperature of 1.
    """

    use_ste: bool
    annealing: bool
    initial_temperature: float
    final_temperature: float
    cooldown_steps: int
    pruning_warmup_updates: int = 0
    final_noise: float = 1.0
    mask_samples: int = 1
    sampler: str = "relaxed"

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> SubsetOptions:
        """Take the sampler's options out of the method's; one that was not given has its default here."""
        known = ((field.name, options.get(field.name)) for field in fields(cls))
        return cls(**{name: value for name, value in known if value is not None})

    def check(self) -> None:
        """Raise an OptionError for two that exclude each other."""
        if self.sampler == "simple" or self.sampler not in SAMPLERS:
            check_sampler({"sampler": self.sampler, "use_ste": self.use_ste})
        if self.use_ste and self.annealing:
            reason = "has no temperature: give either {} or {}"
            raise OptionError("use_ste", reason, "use_ste", "annealing")
        if self.use_ste and self.final_noise != 1.0:
            check_straight_through({"use_ste": True, "final_noise": self.final_noise})
        if self.final_noise != 1.0 and self.sampler == "simple":
            check_sampler({"sampler": "simple", "final_noise": self.final_noise})
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
        if self.sampler == "simple":
            cooling = self.cooling() if self.annealing else None
            return ExactSubset(head_map, budget, cooling, self.mask_samples)
        return RelaxedSubset(head_map, budget, self.cooling(), self.noise(), self.mask_samples)

    def warnings(self, updates: int | None, spelling: Spelling, init_scores: str = "random") -> list[str]:
        """Say what to know before a training of so many updates; None where their number is not known."""
        if self.use_ste:
            return []
        if not self.annealing and self.sampler == "simple":
            return []
        if not self.annealing:
            return frozen_scores(self.final_temperature, spelling, init_scores)
        return [] if updates is None else unfinished_cooldown(self.cooling(), updates, spelling)
