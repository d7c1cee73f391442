"""Scores that start from importance: what a sweep would keep is what learning starts with."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ...options.errors import OptionError
from ..budget import HeadBudget
from ..methods.recipe import STARTS
from .removal_order import ImportanceOf, ranking_of_removal, remove_stepwise, stops

SAMPLES = 500
"""Examples that importance is worked out on where a schedule is worked out, too."""

MOST_STEPS = 12
"""Removals of a sweep that only gives a start, each of which works importance out anew."""


def check_start(start: str | None, has_budget: bool) -> None:
    """Check what the scores are to start from, None where that was not said.

    Raises:
        OptionError: it is not known, or importance where no number of heads says how far to sweep.
    """
    if start is not None and start not in STARTS:
        raise OptionError("init_scores", f"must be one of {', '.join(STARTS)}, got {start!r}")
    if start == "importance" and not has_budget:
        reason = "importance needs a number of heads to keep: give {} or {}, or leave it at random"
        raise OptionError("init_scores", reason, "num_of_heads", "heads_per_kind")


def starting_ranking(importance_of: ImportanceOf, num_heads: int, budget: HeadBudget) -> Tensor:
    """Rank all heads by a sweep down to the budget, whose own heads come first.

    The least important heads go first, in at most `MOST_STEPS` equal steps, with the importance worked out
    anew under the mask before each (Michel, Levy and Neubig, 2019, section 4.2, "exact").

    Args:
        importance_of: keep -> importance [N].
        num_heads: N.

    Returns:
        [N] float32, the whole numbers 0..N-1; the larger stays longer.
    """
    keep, removed = torch.ones(num_heads, dtype=torch.bool), []
    step = max(1, -(-(num_heads - budget.total) // MOST_STEPS))
    for removal in remove_stepwise(importance_of, keep, stops(num_heads, step, [budget.total]), budget, True):
        removed += removal.removed
        keep = removal.keep
    return ranking_of_removal(removed, importance_of(keep))


def spread(ranking: Tensor, width: float) -> Tensor:
    """Return scores [N] float32 in the order of a ranking [N], evenly spaced from -width to width."""
    places = ranking.argsort(stable=True).argsort(stable=True).float()
    return (2.0 * places / max(1, len(places) - 1) - 1.0) * width


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Leave the random numbers of Python, NumPy and torch as they are, whatever is drawn inside."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
