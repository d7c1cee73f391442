"""The sampler's noise: its scale over the updates, and what it does to the sample."""

from __future__ import annotations

import pytest
import torch

from dsp_plugin.gating import (
    AttentionBlock,
    ExponentialCooling,
    HeadMap,
    RelaxedSubset,
    SubsetOptions,
    constant_temperature,
    hard_topk,
    relaxed_topk,
)
from dsp_plugin.gating.methods.subset_options import check_straight_through
from dsp_plugin.gating.sampling.relaxed_topk import gumbel_noise
from dsp_plugin.gating.sampling.schedule import FallingNoise
from dsp_plugin.options.errors import OptionError

HEADS = HeadMap([AttentionBlock("a", 4, "x"), AttentionBlock("b", 4, "x")])


@pytest.mark.parametrize("final, steps, start", [(0.0, 100, 0), (0.25, 7, 30), (1.0, 5, 2)])
def test_it_falls_in_a_straight_line(final, steps, start):
    noise = FallingNoise(final, steps, start)
    for update in range(start + steps + 5):
        part = min(1.0, max(0, update - start) / steps)
        assert noise(update) == pytest.approx(1.0 * (1 - part) + final * part)


def test_without_steps_it_is_there_at_once():
    assert FallingNoise(0.5, 0)(0) == 0.5


@pytest.mark.parametrize("final", [-0.1, 1.5, float("nan")])
def test_a_scale_that_cannot_be(final):
    with pytest.raises(OptionError, match="final_noise must be in 0..1"):
        FallingNoise(final, 10)


def test_the_sample_is_that_of_the_scaled_noise():
    gates = RelaxedSubset(HEADS, 3, constant_temperature(0.7), lambda updates: 0.3)
    torch.manual_seed(5)
    drawn = gates.sample()
    torch.manual_seed(5)
    noise = gumbel_noise(gates.scores.shape, device="cpu")
    assert torch.equal(drawn, relaxed_topk(gates.scores, 3, 0.7, 0.3 * noise).float())


def test_none_is_the_published_sampler_to_the_last_bit():
    gates = RelaxedSubset(HEADS, 3, constant_temperature(0.7))
    torch.manual_seed(5)
    drawn = gates.sample()
    torch.manual_seed(5)
    noise = gumbel_noise(gates.scores.shape, device="cpu")
    assert torch.equal(drawn, relaxed_topk(gates.scores, 3, 0.7, noise).float())


def test_at_the_end_of_a_cool_down_to_no_noise_the_sample_is_the_deployed_mask():
    options = SubsetOptions(False, True, 1.0, 1e-8, 20, 10, final_noise=0.0)
    gates = options.gates(HEADS, 3)
    gates.set_num_updates(10)
    draws = {tuple(gates.sample().round().int().tolist()) for _ in range(50)}
    assert len(draws) > 1  # at its start it still explores
    assert gates.follows_updates()
    gates.set_num_updates(30)
    for _ in range(20):
        assert torch.equal(gates.sample() > 0.5, gates.keep())
    assert torch.equal(gates.keep(), hard_topk(gates.scores, 3))
    assert not gates.follows_updates()


def test_noise_that_falls_at_one_temperature_is_followed():
    gates = RelaxedSubset(HEADS, 3, constant_temperature(0.5), FallingNoise(0.0, 10))
    assert gates.follows_updates()


def test_it_belongs_to_a_cool_down():
    with pytest.raises(OptionError, match="final_noise is the noise at the end of a cool-down"):
        SubsetOptions(False, False, 1.0, 0.1, 10, final_noise=0.5).check()
    assert SubsetOptions(False, True, 1.0, 0.1, 10).noise() is None
    assert SubsetOptions(False, True, 1.0, 0.1, 10).cooling() == ExponentialCooling(1.0, 0.1, 10)


def test_options_that_were_not_given_have_their_defaults():
    given = {"use_ste": False, "annealing": True, "initial_temperature": 1.0, "final_temperature": 0.1}
    assert SubsetOptions.of({**given, "cooldown_steps": 5, "final_noise": None}).final_noise == 1.0
    assert SubsetOptions.of({**given, "cooldown_steps": 5}).pruning_warmup_updates == 0


@pytest.mark.parametrize("name, value", [("final_noise", 0.0), ("final_noise", 1.0), ("mask_samples", 8)])
def test_straight_through_gates_have_no_noise_and_one_mask(name, value):
    with pytest.raises(OptionError, match=f"{name} has no say .* leave it or use_ste out"):
        check_straight_through({"use_ste": True, name: value})
    check_straight_through({"use_ste": False, name: value})
    # a published command line
    check_straight_through({"use_ste": True, "initial_temperature": 1000.0, "cooldown_steps": 25000})
