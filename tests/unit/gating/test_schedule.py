"""The temperature is a function of the number of updates."""

from __future__ import annotations

import math

import pytest

from dsp_plugin.gating import ExponentialCooling, constant_temperature
from dsp_plugin.options.errors import OptionError


@pytest.mark.parametrize(
    "initial, final, steps", [(0.1, 1e-8, 15000), (1000.0, 1e-8, 25000), (2.0, 0.5, 3), (0.1, 1.0, 7)]
)
def test_the_published_formula(initial, final, steps):
    cooling = ExponentialCooling(initial, final, steps)
    for step in {0, 1, steps // 3, steps // 2, steps - 1}:
        expected = initial * (final / initial) ** (step / steps)  # the same curve, written as a power
        assert cooling(step) == pytest.approx(expected, rel=1e-12)


def test_its_ends():
    cooling = ExponentialCooling(0.1, 1e-8, 15000)
    assert cooling(0) == pytest.approx(0.1, rel=1e-15)
    assert cooling(15000) == 1e-8
    assert cooling(10**9) == 1e-8
    assert cooling(14999) > 1e-8


def test_a_later_start_shifts_it():
    late, cooling = ExponentialCooling(1.0, 0.01, 100, start=40), ExponentialCooling(1.0, 0.01, 100)
    assert [late(n) for n in (0, 39, 40)] == [1.0] * 3
    assert [late(n + 40) for n in (1, 50, 99, 100, 500)] == [cooling(n) for n in (1, 50, 99, 100, 500)]


def test_half_way_is_the_geometric_mean():
    assert ExponentialCooling(0.1, 1e-8, 100)(50) == pytest.approx(math.sqrt(0.1 * 1e-8), rel=1e-12)


def test_no_steps_means_the_final_temperature_at_once():
    assert ExponentialCooling(0.1, 1e-8, 0)(0) == 1e-8
    assert [constant_temperature(0.3)(n) for n in (0, 1, 10**6)] == [0.3] * 3


@pytest.mark.parametrize(
    "arguments, option",
    [
        ((0.0, 1e-8, 1), "initial_temperature"),
        ((-1.0, 1e-8, 1), "initial_temperature"),
        ((float("nan"), 1e-8, 1), "initial_temperature"),
        ((float("inf"), 1e-8, 1), "initial_temperature"),
        ((0.1, 0.0, 1), "final_temperature"),
        ((0.1, float("nan"), 1), "final_temperature"),
        ((0.1, float("inf"), 1), "final_temperature"),
        ((0.1, 1e-31, 1), "final_temperature"),  # below what the sampler can divide by
        ((0.1, 1e-8, -1), "cooldown_steps"),
    ],
)
def test_impossible_values_name_their_option(arguments, option):
    with pytest.raises(OptionError, match=option):
        ExponentialCooling(*arguments)


@pytest.mark.parametrize("value", [0.0, -0.5])
def test_an_impossible_constant_names_the_option_the_user_gave(value):
    with pytest.raises(OptionError, match="final_temperature"):
        constant_temperature(value)
