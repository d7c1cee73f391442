"""A start from importance: the sweep's own heads come first, and no random number is drawn."""

from __future__ import annotations

import random

import numpy as np
import torch

from dsp_plugin.gating import (
    AttentionBlock,
    HeadBudget,
    HeadMap,
    RelaxedSubset,
    constant_temperature,
    spread,
    starting_ranking,
)
from dsp_plugin.gating.importance.start import random_numbers_kept

HEADS = HeadMap([AttentionBlock(f"layer{n}", 4, "encoder-self") for n in range(2)])


def gates(k=3):
    return RelaxedSubset(HEADS, k, constant_temperature(1.0))


def test_gates_that_began_with_a_ranking_are_decided():
    subset = gates()
    assert subset.decided is False
    subset.begin_with(torch.arange(8.0))
    assert subset.decided is True and subset.keep().tolist() == [False] * 5 + [True] * 3
    again = gates()
    again.load_state_dict(subset.state_dict())
    assert again.decided is None  # a state does not tell
    subset.load_state_dict(again.state_dict())
    assert subset.decided is None


def test_the_start_keeps_what_the_sweep_keeps():
    importance = torch.tensor([5.0, 1.0, 2.0, 8.0, 7.0, 3.0, 4.0, 6.0])
    ranking = starting_ranking(lambda keep: importance, 8, HeadBudget(HEADS, 3, minimum=1))
    subset = gates(3)
    subset.begin_with(spread(ranking, 2.0))
    assert subset.keep().nonzero().flatten().tolist() == [3, 4, 7]
    assert subset.scores.detach().aminmax() == (-2.0, 2.0)


def test_random_numbers_are_left_as_they_are():
    def draws():
        return random.random(), np.random.rand(), float(torch.rand(1))

    def seed():
        random.seed(1), np.random.seed(1), torch.manual_seed(1)

    seed()
    expected = draws()
    seed()
    with random_numbers_kept():
        assert draws() == expected
    assert draws() == expected
