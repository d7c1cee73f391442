"""What is said of settings that will not do what the user wants."""

from __future__ import annotations

import math

import pytest

from dsp_plugin.gating import ExponentialCooling
from dsp_plugin.gating.methods.advice import frozen_scores, unfinished_cooldown
from dsp_plugin.options.errors import dashed


@pytest.mark.parametrize("temperature, warned", [(1e-8, True), (9e-4, True), (1e-3, False), (0.1, False)])
def test_a_sampler_without_gradient(temperature, warned):
    said = frozen_scores(temperature, dashed)
    assert bool(said) == warned and (
        not warned or f"the temperature is {temperature:g} throughout" in said[0]
    )


def test_a_cooldown_that_the_training_has_room_for():
    assert unfinished_cooldown(ExponentialCooling(1.0, 0.01, 100, start=50), 150, dashed) == []


def test_a_cooldown_that_does_not_end_names_the_temperature_that_is_left():
    (said,) = unfinished_cooldown(ExponentialCooling(1.0, 0.01, 100, start=50), 100, dashed)
    assert "Give --cooldown-steps that" in said
    assert "it takes 100 updates from update 50 on, the training has 100" in said
    assert f"ends at {math.sqrt(0.01):.3g}, not at 0.01" in said  # half-way of an exponential


@pytest.mark.parametrize("start, said", [("random", "of the random start"), ("importance", "ranks first")])
def test_the_heads_that_such_a_sampler_keeps_are_those_of_its_start(start, said):
    (warning,) = frozen_scores(1e-8, dashed, start)
    assert said in warning
