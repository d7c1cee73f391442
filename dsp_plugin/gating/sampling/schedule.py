"""Temperature and noise of the relaxed sampler over training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...options.errors import OptionError
from .limits import MIN_TEMPERATURE


@dataclass(frozen=True)
class ExponentialCooling:
    """A temperature that falls exponentially from `initial` to `final` in `steps` updates (DSP, section 3.3).

    T(s) = exp(ln T0 - (s / C) (ln T0 - ln Tf)) for s < C, else Tf; s counts from update `start`, T = T0
    before it. A function of the number of optimizer updates and of nothing else, so that a resumed run has
    the temperature it would have had.

    Raises:
        OptionError: a temperature that is not positive and finite, or a negative number of steps.
    """

    initial: float
    final: float
    steps: int
    start: int = 0

    def __post_init__(self) -> None:
        # the final one first: without annealing it is the only one the user gave
        for option, value in (("final_temperature", self.final), ("initial_temperature", self.initial)):
            if not MIN_TEMPERATURE <= value < math.inf:
                reason = f"must be a positive finite number (at least {MIN_TEMPERATURE}), got {value}"
                raise OptionError(option, reason)
        if self.steps < 0:
            raise OptionError("cooldown_steps", f"must be 0 or more updates, got {self.steps}")

    def __call__(self, num_updates: int) -> float:
        num_updates = max(0, num_updates - self.start)
        if num_updates >= self.steps:
            return self.final
        log_initial, log_final = math.log(self.initial), math.log(self.final)
        return math.exp(log_initial - num_updates / self.steps * (log_initial - log_final))


def constant_temperature(value: float) -> ExponentialCooling:
    """Return a schedule without annealing: the final temperature from the first update on."""
    return ExponentialCooling(initial=value, final=value, steps=0)


@dataclass(frozen=True)
class FallingNoise:
    """A scale of the sampler's noise that falls in a straight line from 1 to `final` in `steps` updates.

    1 before update `start`, which the steps count from. Like the temperature a function of the number of
    updates alone.

    Raises:
        OptionError: a scale outside 0..1.
    """

    final: float
    steps: int
    start: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.final <= 1:
            raise OptionError("final_noise", f"must be in 0..1, got {self.final}")

    def __call__(self, num_updates: int) -> float:
        done = max(0, num_updates - self.start)
        if done >= self.steps:
            return self.final
        return 1.0 - (1.0 - self.final) * done / self.steps


@dataclass
class ScoreRate:
    """The learning rate of the scores, which falls in a straight line from `peak` to 0 in `steps` updates.

    Attributes:
        steps: 0: the rate stays.
        start: the update that they count from.
        num_updates: made so far; whoever counts them writes it.
    """

    peak: float
    steps: int = 0
    start: int = 0
    num_updates: int = 0

    def __call__(self) -> float:
        """Return the rate of the next update."""
        if not self.steps:
            return self.peak
        done = max(0, self.num_updates - self.start)
        return self.peak * max(0.0, 1.0 - done / self.steps)
