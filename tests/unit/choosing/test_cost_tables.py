"""Cost tables: monotone fits against quadratic programs by hand, and sums of blocks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dsp_plugin.choosing import CostTable, counts_to_measure, monotone
from dsp_plugin.gating.head_map import AttentionBlock, HeadMap


def test_counts_double_up_to_all():
    assert counts_to_measure(12) == [1, 2, 4, 8, 12]
    assert counts_to_measure(8) == [1, 2, 4, 8]
    assert counts_to_measure(1) == [1] and counts_to_measure(0) == []


@pytest.mark.parametrize("seed", range(10))
def test_the_monotone_fit_is_the_best_of_all_poolings(seed):
    """The least-squares fit is the mean over runs of neighbours: the best rising one of all ways to cut."""
    values = np.random.default_rng(seed).normal(size=6) + np.arange(6) * 0.2
    best = None
    for cuts in itertools.product([False, True], repeat=5):
        runs = np.split(values, [n + 1 for n, cut in enumerate(cuts) if cut])
        fit = np.concatenate([np.full(len(run), run.mean()) for run in runs])
        if (np.diff(fit) >= 0).all():
            error = ((fit - values) ** 2).sum()
            best = min(best or (error, fit), (error, fit), key=lambda pair: pair[0])
    np.testing.assert_allclose(monotone(values), best[1])


def test_rising_values_stay_as_they_are():
    assert monotone([1, 2, 2, 5]).tolist() == [1, 2, 2, 5] and monotone([]).tolist() == []


def blocks(*sizes: int) -> HeadMap:
    return HeadMap([AttentionBlock(f"layer.{n}", size, "encoder-self") for n, size in enumerate(sizes)])


def test_costs_are_straight_between_measured_counts_and_add_up_to_the_model():
    table = CostTable(10.0, 2.0, {"encoder-self": {1: 4.0, 2: 6.0, 4: 10.0}})
    for costs in table.costs(blocks(4, 4)):
        np.testing.assert_allclose(costs, [0, 1, 2, 3, 4])
    assert table.ceiling == 5.0


def test_blocks_that_have_lost_units_before_get_their_part_of_the_same_curve():
    costs = [0, 3.0, 4.0, 5.0, 6.0]  # of one block, by its count
    sizes = (4, 1, 2)
    sums = {c: 2.0 + sum(costs[min(c, size)] for size in sizes) for c in (1, 2, 4)}
    table = CostTable(sums[4], 2.0, {"encoder-self": sums})
    for found, size in zip(table.costs(blocks(*sizes)), sizes):
        np.testing.assert_allclose(found, costs[: size + 1])


def test_classes_are_scaled_together_to_the_whole_model():
    head_map = HeadMap([AttentionBlock("a", 2, "encoder-self"), AttentionBlock("b", 3, "encoder-ffn", 16)])
    measured = {"encoder-self": {1: 3.0, 2: 4.0}, "encoder-ffn of 16": {1: 4.0, 2: 5.0, 3: 7.0}}
    heads, neurons = CostTable(2.0 + 2 * 7.0, 2.0, measured).costs(head_map)
    np.testing.assert_allclose(heads, [0, 2, 4])
    np.testing.assert_allclose(neurons, [0, 4, 6, 10])


def test_noise_never_makes_more_units_cheaper_or_a_cost_negative():
    table = CostTable(9.0, 5.0, {"encoder-self": {1: 4.0, 2: 8.0, 4: 7.0}})
    (costs,) = table.costs(blocks(4))
    assert (np.diff(costs) >= 0).all() and (costs >= 0).all() and costs[-1] == pytest.approx(4.0)


def test_a_class_that_was_not_measured_is_named():
    with pytest.raises(ValueError, match="encoder-self were measured up to 2 units, it has 4"):
        CostTable(9.0, 5.0, {"encoder-self": {2: 8.0}}).costs(blocks(4))


def test_a_table_survives_its_file_and_another_content_is_refused():
    table = CostTable(10.0, 2.0, {"encoder-self": {1: 4.0, 2: 6.0}})
    assert CostTable.of(table.to_dict()) == table
    for wrong in (
        {},
        {"whole": 1, "fixed": 0, "measured": {"a": {"x": 1}}},
        {**table.to_dict(), "fixed": -1},
    ):
        with pytest.raises(ValueError, match="no table of costs"):
            CostTable.of(wrong)
