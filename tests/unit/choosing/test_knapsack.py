"""The choice under a bound, against trying every combination of counts."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from dsp_plugin.choosing import choose_units
from dsp_plugin.options.errors import OptionError


def best_of_all(scores, costs, bound, stacks=None):
    """The largest score of any combination of counts under the bound, and the least cost that gives it."""
    best = None
    for counts in itertools.product(*(range(len(block) + 1) for block in scores)):
        by_stack = {}
        if stacks is not None and any(by_stack.setdefault(s, c) != c for s, c in zip(stacks, counts)):
            continue
        cost = math.fsum(block[count] for block, count in zip(costs, counts))
        if cost > bound:
            continue
        score = math.fsum(sum(sorted(block, reverse=True)[:count]) for block, count in zip(scores, counts))
        if best is None or (score, -cost) > (best[0], -best[1]):
            best = score, cost
    return best


def drawn(seed, whole, sizes=(3, 0, 4, 2, 3)):
    """Scores and rising costs of a few blocks, some of them equal and some 0."""
    random = np.random.default_rng(seed)
    scores = [random.integers(0, 5, size) / 4 for size in sizes]
    steps = [random.integers(0, 6, size) if whole else random.random(size) for size in sizes]
    return scores, [np.concatenate([[random.integers(0, 3)], step]).cumsum() for step in steps]


@pytest.mark.parametrize("seed", range(25))
def test_whole_costs_give_the_best_of_all_combinations(seed):
    scores, costs = drawn(seed, whole=True)
    least = sum(int(block.min()) for block in costs)
    most = sum(int(block.max()) for block in costs)
    for bound in {least, least + 1, (least + most) // 2, most, most + 7}:
        choice = choose_units(scores, costs, bound)
        score, cost = best_of_all(scores, costs, bound)
        assert choice.score == pytest.approx(score, abs=1e-12)
        assert choice.cost == cost, "of equal scores the cheaper one"


@pytest.mark.parametrize("seed", range(25))
def test_other_costs_never_exceed_the_bound_and_come_near_the_best(seed):
    scores, costs = drawn(seed, whole=False)
    least, most = sum(block.min() for block in costs), sum(block.max() for block in costs)
    for share in (0.1, 0.4, 0.8):
        bound = least + share * (most - least)
        choice = choose_units(scores, costs, bound)
        assert choice.cost <= bound * (1 + 1e-9)
        assert choice.score <= best_of_all(scores, costs, bound)[0] + 1e-12
        smaller = bound * (1 - len(scores) / 1000)
        if smaller >= least:
            assert choice.score >= best_of_all(scores, costs, smaller)[0] - 1e-12


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_coarse_steps_keep_to_the_bound_too(steps):
    for seed in range(10):
        scores, costs = drawn(seed, whole=False)
        bound = 0.5 * sum(block.max() for block in costs) + sum(block.min() for block in costs)
        choice = choose_units(scores, costs, bound, steps=steps)
        assert choice.cost <= bound * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_uniform_stacks_keep_one_count_each_and_the_best_of_these(seed):
    scores, costs = drawn(seed, whole=True, sizes=(3, 4, 3, 4))
    stacks, bound = ("a", "b", "a", "b"), 12
    if sum(block.min() for block in costs) > bound:
        bound = int(sum(block.min() for block in costs))
    choice = choose_units(scores, costs, bound, stacks)
    assert choice.counts[0] == choice.counts[2] and choice.counts[1] == choice.counts[3]
    score, cost = best_of_all(scores, costs, bound, stacks)
    assert choice.score == pytest.approx(score, abs=1e-12) and choice.cost == cost


def test_the_best_units_of_a_block_stay_and_ties_go_to_the_lower():
    choice = choose_units([[0.5, 2.0, 0.5, 1.0]], [[0, 1, 2, 3, 4]], 3)
    assert choice.keep[0].tolist() == [True, True, False, True]
    assert choice.counts == [3] and choice.score == 3.5 and choice.cost == 3
    assert choice.mask.dtype == torch.bool


def test_units_that_are_worth_nothing_do_not_stay_for_a_price():
    assert choose_units([[0.0, 0.0]], [[0, 1, 2]], 2).counts == [0]
    assert choose_units([[], [1.0]], [[0], [0, 1]], 5).counts == [0, 1]
    assert choose_units([], [], 0).mask.tolist() == []


def test_a_bound_that_nothing_fits_under_is_refused_with_the_least_possible():
    with pytest.raises(OptionError, match="bound 2 cannot be: .* 3"):
        choose_units([[1.0], [1.0]], [[1, 5], [2, 5]], 2)
    with pytest.raises(OptionError, match="bound nan"):
        choose_units([[1.0]], [[0, 1]], float("nan"))


@pytest.mark.parametrize(
    "scores,costs,stacks,said",
    [
        ([[1.0]], [[0.0]], None, "1 units need costs of 0 .. 1"),
        ([[float("nan")]], [[0, 1]], None, "finite"),
        ([[1.0]], [[0, -1]], None, "negative"),
        ([[1.0]], [], None, "scores of 1 blocks, costs of 0"),
        ([[1.0], [1.0, 2.0]], [[0, 1], [0, 1, 2]], ("a", "a"), "different numbers of units"),
    ],
)
def test_what_does_not_fit_is_refused(scores, costs, stacks, said):
    with pytest.raises(ValueError, match=said):
        choose_units(scores, costs, 10, stacks)
