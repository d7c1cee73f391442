"""From a wish to a model: choose units under a bound, take the others out, measure, correct the bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..gating.head_map import AttentionBlock, HeadMap
from ..options.errors import OptionError
from ..records.kept_heads import kept_in_words
from .cost_tables import CostTable
from .host import Factors, Host, Meter
from .knapsack import choose_units
from .rearrangement import rearranged
from .rescaling import rescaling_factors
from .rounds import MOST_ROUNDS, Round, is_near, nearest, next_bound

MOST_OF_THE_CEILING = 0.8


@dataclass(frozen=True)
class Worth:
    """What units are worth, worked out once on calibration data; serves every bound.

    Attributes:
        scores: [N], the larger stays longer.
        fisher: for every block [h, h], to swap units by; None: no unit is swapped.
        grams: for every block [h, h], to rescale survivors by; None: none is scaled.
    """

    scores: Tensor
    fisher: Sequence[Tensor] | None = None
    grams: Sequence[Tensor] | None = None


@dataclass
class Attempt:
    """One choice, and the model without the units that are not in it.

    Attributes:
        bound: on the whole model's cost, a share of the unpruned model's.
        predicted, measured: the cost by the table, and by the model.
        keep: bool [N].
        factors: see `Factors`.
    """

    bound: float
    predicted: float
    keep: Tensor
    factors: Factors
    measured: float = float("nan")

    @property
    def speedup(self) -> float:
        """How many times cheaper the model was measured to be."""
        return 1.0 / self.measured


@dataclass
class Search:
    """Looks for the best units that a bound pays for.

    Args:
        host, table, worth: the model, its costs, its units' worth.
        uniform: one number of units for all blocks of a stack, see `stack_of`.
    """

    host: Host
    table: CostTable
    worth: Worth
    uniform: bool = False
    _costs: list = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._costs = self.table.costs(self.host.head_map)

    def attempt(self, bound: float) -> Attempt:
        """Choose units under a bound on the whole model's cost; nothing is measured.

        Raises:
            OptionError: see `choose_units`.
        """
        head_map = self.host.head_map
        stacks = [stack_of(block) for block in head_map.blocks] if self.uniform else None
        choice = choose_units(
            head_map.split(self.worth.scores), self._costs, bound - self.table.fixed, stacks
        )
        keep = choice.keep
        if self.worth.fisher is not None:
            keep = [rearranged(matrix, flags) for matrix, flags in zip(self.worth.fisher, keep)]
        factors: list[Tensor | None] = [None] * len(keep)
        if self.worth.grams is not None:
            factors = [rescaling_factors(gram, flags) for gram, flags in zip(self.worth.grams, keep)]
        return Attempt(bound, self.table.fixed + choice.cost, torch.cat(keep), factors)

    def model(self, attempt: Attempt) -> Any:
        """Return the model of an attempt."""
        return self.host.without(attempt.keep, attempt.factors)

    def reach(
        self, speedup: float, meter: Meter, say: Callable[[str], None] = print
    ) -> tuple[Attempt, list[Attempt]]:
        """Look for a model that measures as fast as asked.

        Latency is corrected for, up to three rounds, while it is off by more than 5 %; other costs are what
        the table says.

        Args:
            speedup: X; see `check_speedup`.

        Returns:
            the attempt that came nearest, and all of them.
        """
        wanted, bound = 1.0 / speedup, 1.0 / speedup
        attempts: list[Attempt] = []
        while True:
            attempt = self.attempt(bound)
            if any(torch.equal(attempt.keep, other.keep) for other in attempts):
                break  # another bound, but the same model
            attempt.measured = meter.share(self.model(attempt))
            attempts.append(attempt)
            say(f"round {len(attempts)}: {words_of(attempt, self.host.head_map)}")
            rounds = [Round(one.bound, one.measured) for one in attempts]
            enough = is_near(attempt.measured, wanted) or len(attempts) == MOST_ROUNDS
            if enough or meter.cost != "latency":
                break
            bound = next_bound(rounds, wanted, self.table.fixed, self.table.whole)
        return attempts[nearest([Round(one.bound, one.measured) for one in attempts], wanted)], attempts


def stack_of(block: AttentionBlock) -> str:
    """Name the stack of a block: the encoder's or the decoder's attention, or its feed-forward blocks.

    The decoder's self- and cross-attention are one stack: programs with one number of heads a stack
    (CTranslate2) have one number for both.
    """
    side = block.kind.partition("-")[0]
    return f"{side}'s feed-forward blocks" if block.neurons else f"{side}'s attention"


def check_wish(speedup: float) -> None:
    """Refuse a speed-up below 1, before anything is loaded.

    Raises:
        OptionError: see above.
    """
    if not 1.0 <= speedup < float("inf"):
        raise OptionError("target_speedup", f"must be a number of 1 or more, got {speedup:g}")


def check_speedup(speedup: float, table: CostTable) -> None:
    """Refuse a speed-up that is out of reach.

    Raises:
        OptionError: it is more than 80 % of the ceiling, which is what is left when all units are gone.
    """
    check_wish(speedup)
    most = max(1.0, MOST_OF_THE_CEILING * table.ceiling)
    if speedup > most:
        reason = (
            f"{speedup:g} is out of reach: without any of these units the model is {table.ceiling:.2f} times "
            f"as fast, and up to 80 % of that can be asked for ({most:.2f})"
        )
        raise OptionError("target_speedup", reason)


def words_of(attempt: Attempt, head_map: HeadMap) -> str:
    """Say what an attempt keeps and reached."""
    kept = kept_in_words(head_map.to_dict(), attempt.keep.tolist())
    return f"{kept} kept, {1 / attempt.predicted:.2f}x expected, {attempt.speedup:.2f}x measured"
