"""Corrections of a bound against models whose parts do not add up."""

from __future__ import annotations

import pytest

from dsp_plugin.choosing import Round, nearest, next_bound
from dsp_plugin.choosing.rounds import MOST_ROUNDS, is_near


@pytest.mark.parametrize(
    "cost",
    [
        lambda bound: bound + 0.15,  # a part that was not seen
        lambda bound: 0.8 * bound + 0.02,
        lambda bound: 1.3 * bound - 0.05,
    ],
)
def test_three_rounds_come_near(cost):
    wanted, rounds = 0.5, [Round(0.5, cost(0.5))]
    while not is_near(rounds[-1].measured, wanted) and len(rounds) < MOST_ROUNDS:
        bound = next_bound(rounds, wanted, 0.05, 1.0)
        rounds.append(Round(bound, cost(bound)))
    assert len(rounds) > 1 and is_near(rounds[nearest(rounds, wanted)].measured, wanted)


def test_a_bound_stays_between_its_ends():
    assert next_bound([Round(0.5, 0.9)], 0.3, 0.2, 1.0) == 0.2
    assert next_bound([Round(0.5, 0.1)], 0.9, 0.2, 1.0) == 1.0


def test_a_line_that_falls_is_no_line():
    """Noise: a larger bound measured as cheaper. The step of one round is taken."""
    found = next_bound([Round(0.5, 0.60), Round(0.4, 0.62)], 0.5, 0.1, 1.0)
    assert found == pytest.approx(0.4 + 0.5 - 0.62)


def test_near_is_said_of_ratios_of_speed():
    assert is_near(0.5 / 1.049, 0.5) and is_near(0.5 / 0.951, 0.5)
    assert not is_near(0.5 / 1.06, 0.5) and not is_near(0.0, 0.5)
    assert nearest([Round(1, 0.8), Round(1, 0.49), Round(1, 0.55)], 0.5) == 1
