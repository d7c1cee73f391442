"""Importance from gradients, its normalisations, and the order in which heads go; against formulas and by
hand.
"""

from __future__ import annotations

import math

import pytest
import torch
from head_maps import head_map

from dsp_plugin.gating import (
    HeadBudget,
    HeadImportance,
    RankedGates,
    next_removals,
    normalised,
    plan_removal,
    random_ranking,
    ranking_of_removal,
    remove_stepwise,
    stops,
    weight_magnitude,
)
from dsp_plugin.options.errors import OptionError

HEADS = head_map(
    ("a", 3, "encoder-self"), ("b", 0, "decoder-cross"), ("c", 2, "decoder-self"), ("d", 2, "decoder-self")
)
N = HEADS.num_heads
ALL = torch.ones(N, dtype=torch.bool)


def mask(*heads: int) -> torch.Tensor:
    keep = torch.zeros(N, dtype=torch.bool)
    keep[list(heads)] = True
    return keep


# ---- the sum


def test_the_absolute_value_is_taken_example_by_example():
    gradients = torch.tensor([[1.0, 2.0], [-3.0, 2.0], [1.0, -1.0]])
    for per_batch, expected in ((False, [5 / 10, 5 / 10]), (True, [1 / 10, 3 / 10])):
        found = HeadImportance(2, per_batch)
        found.add(gradients, tokens=10)
        assert found.value().tolist() == pytest.approx(expected) and found.examples == 3


def test_batches_add_up_whatever_their_size():
    torch.manual_seed(0)
    gradients = torch.randn(9, N)
    whole, parts = HeadImportance(N), HeadImportance(N)
    whole.add(gradients, 40)
    for part, tokens in ((gradients[:2], 11), (gradients[2:], 29)):
        parts.add(part, tokens)
    torch.testing.assert_close(parts.value(), whole.value())


def test_it_goes_on_from_its_state():
    torch.manual_seed(0)
    first, second = torch.randn(4, N), torch.randn(5, N)
    whole, start, rest = HeadImportance(N), HeadImportance(N), HeadImportance(N)
    whole.add(first, 7), whole.add(second, 8)
    start.add(first, 7)
    rest.load_state_dict(start.state_dict())
    rest.add(second, 8)
    assert torch.equal(rest.value(), whole.value()) and (rest.tokens, rest.examples) == (15, 9)
    assert start.examples == 4  # the state was a copy
    with pytest.raises(ValueError, match=f"of {N} heads.*for 2"):
        HeadImportance(2).load_state_dict(start.state_dict())


@pytest.mark.parametrize(
    "bad",
    [torch.ones(N), torch.ones(2, N + 1), torch.tensor([[math.nan] * N]), torch.tensor([[math.inf] * N])],
)
def test_gradients_that_cannot_be(bad):
    with pytest.raises(ValueError, match="expected gradients|not finite"):
        HeadImportance(N).add(bad, 1)


def test_nothing_counted():
    with pytest.raises(ValueError, match="no example"):
        HeadImportance(N).value()


# ---- normalisation

RAW = torch.tensor([3.0, 4.0, 0.0, 6.0, 8.0, 5.0, 12.0])
BY_BLOCK = [3 / 5, 4 / 5, 0.0, 6 / 10, 8 / 10, 5 / 13, 12 / 13]


def scaled(values):
    low, high = min(values), max(values)
    return [(value - low) / (high - low) for value in values]


@pytest.mark.parametrize(
    "by_block, overall, expected",
    [
        (False, False, RAW.tolist()),
        (True, False, BY_BLOCK),
        (False, True, scaled(RAW.tolist())),
        (True, True, scaled(BY_BLOCK)),
    ],
)
def test_normalisations(by_block, overall, expected):
    assert normalised(RAW, HEADS, None, by_block, overall).tolist() == pytest.approx(expected, rel=1e-12)


def test_heads_that_are_gone_count_in_no_norm():
    keep = mask(0, 1, 3, 5, 6)
    found = normalised(RAW, HEADS, keep, overall=False)
    assert found.tolist() == pytest.approx([3 / 5, 4 / 5, 0, 1.0, 0, 5 / 13, 12 / 13])
    found = normalised(RAW, HEADS, keep)
    assert found[~keep].tolist() == [0, 0] and found[5] == 0 and found[3] == 1


def test_heads_that_all_matter_nothing():
    assert normalised(torch.zeros(N), HEADS).tolist() == [0.0] * N
    assert normalised(RAW, HEADS, ~ALL).tolist() == [0.0] * N


# ---- the order of removal


def test_the_least_important_go_first_and_ties_by_position():
    importance = torch.tensor([0.5, 0.1, 0.5, 0.9, 0.1, 0.5, 0.0])
    assert next_removals(importance, ALL, 5) == [6, 4, 1, 5, 2]
    assert next_removals(importance, mask(0, 1, 3), 2) == [1, 0]
    assert next_removals(importance, ALL, 0) == []


def test_what_cannot_be_removed():
    with pytest.raises(ValueError, match="8 heads were to go"):
        next_removals(torch.rand(N), ALL, N + 1)
    with pytest.raises(ValueError, match="NaN"):
        next_removals(torch.tensor([math.nan] + [0.0] * (N - 1)), ALL, 1)
    with pytest.raises(ValueError, match="3 heads were to go, but the budget lets only 2 of 7 go"):
        next_removals(torch.rand(N), ALL, 3, HeadBudget(HEADS, 5))


def test_a_budget_by_kind_and_a_minimum_are_met_at_the_end_and_never_broken_before():
    budget = HeadBudget(HEADS, None, {"encoder-self": 1, "decoder-cross": 0, "decoder-self": 3}, minimum=1)
    for seed in range(30):
        torch.manual_seed(seed)
        importance = torch.rand(N)
        removed, left = next_removals(importance, ALL, N - 4, budget), ALL.clone()
        for head in removed:
            left[head] = False
            a, _, c, d = (int(part.sum()) for part in HEADS.split(left))
            assert a >= 1 and c >= 1 and d >= 1 and c + d >= 3
        assert torch.equal(left, budget.select(importance))  # the same heads as chosen at once


def test_stops():
    assert stops(24, 4) == [20, 16, 12, 8, 4, 0]
    assert stops(24, 7) == [17, 10, 3, 0]
    assert stops(24, 4, [18, 6]) == [20, 18, 16, 12, 8, 6]
    assert stops(24, 24) == [0]
    assert stops(24, 1, [24]) == []
    for step in (0, -1, 25):
        with pytest.raises(OptionError, match=r"num_of_heads.*1\.\.24.*got"):
            stops(24, step)
    for budget in (-1, 25):
        with pytest.raises(OptionError, match=rf"budgets.*0\.\.24.*{budget}"):
            stops(24, 4, [6, budget])


def sinking(keep):
    """Importance that a removal changes: head i is worth i + 1, and 10 more once its left neighbour is
    gone.
    """
    return torch.tensor([i + 1.0 + 10 * (i > 0 and not keep[i - 1]) for i in range(N)])


def test_a_sweep_is_planned_by_its_options():
    heads = head_map(("a", 3, "encoder-self"), ("b", 2, "decoder-self"))
    assert plan_removal(heads, 5, 4, [2])[:2] == ([2], [2])
    assert plan_removal(heads, 5, 4, [2]).budget.total == 2 and plan_removal(heads, 5, 4, [2]).wish is None
    by_kind = plan_removal(heads, 5, 1, [], "encoder-self=2,decoder-self=1")
    assert by_kind[:2] == ([4, 3], [3]) and by_kind.wish is by_kind.budget
    assert plan_removal(heads, 5, 5, [], None, 1).kept_after == [2]
    for name, options in (("heads_per_kind", ([], "two")), ("num_of_heads", ([], None, 0))):
        with pytest.raises(OptionError) as refused:
            plan_removal(heads, 5, 0, *options)
        assert refused.value.name == name


def test_exact_removal_asks_anew_and_one_shot_only_once():
    asked = []

    def importance_of(keep):
        asked.append(keep.tolist())
        return sinking(keep)

    order = [step.removed for step in remove_stepwise(importance_of, ALL, [6, 5, 4], exact=False)]
    assert order == [[0], [1], [2]] and asked == [ALL.tolist()]
    asked.clear()
    steps = list(remove_stepwise(importance_of, ALL, [6, 5, 4], exact=True))
    assert [step.removed for step in steps] == [[0], [2], [4]]
    assert asked == [ALL.tolist(), *(step.keep.tolist() for step in steps[:2])]


@pytest.mark.parametrize("exact", [True, False])
def test_a_sweep_goes_on_where_it_stopped(exact):
    whole = list(remove_stepwise(sinking, ALL, [6, 4, 1, 0], exact=exact))
    again = list(remove_stepwise(sinking, whole[1].keep, [1, 0], exact=exact, importance=whole[1].importance))
    assert [step.removed for step in again] == [step.removed for step in whole[2:]]


@pytest.mark.parametrize("k", range(N + 1))
def test_the_ranking_gives_the_mask_of_every_step(k):
    *_, last = steps = list(remove_stepwise(sinking, ALL, range(N - 1, 2, -1), exact=True))
    removed = [head for step in steps for head in step.removed]
    ranking = ranking_of_removal(removed, last.importance)
    assert sorted(ranking.tolist()) == list(range(N))
    keep = RankedGates(HEADS, k, ranking).keep()
    left = set(range(N)) - set(removed[: N - k])
    # below 3 by the last importance
    expected = sorted(left, key=lambda h: float(last.importance[h]))[-k:] if k else []
    assert keep.nonzero().flatten().tolist() == sorted(expected)


def test_gates_say_whether_they_were_ranked():
    gates = RankedGates(HEADS, 2)
    assert not gates.chosen
    gates.install(torch.arange(N))
    assert gates.chosen and gates.keep().tolist() == mask(5, 6).tolist()
    other = RankedGates(HEADS, 2)
    other.load_state_dict(gates.state_dict())
    assert other.chosen and RankedGates(HEADS, 2, torch.arange(N)).chosen


# ---- the baselines


def test_the_random_ranking():
    one, same, other = random_ranking(200, 1), random_ranking(200, 1), random_ranking(200, 2)
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert sorted(one.tolist()) == list(range(200))


def test_weight_magnitude_of_two_heads_by_hand():
    q = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 0.0]])  # heads of size 2: rows 0-1 and 2-3
    k, v = torch.zeros(4, 2), torch.zeros(4, 2)
    v[1, 1] = 2.0
    output = torch.zeros(2, 4)
    output[0, 0], output[1, 3] = 4.0, 4.0  # columns 0 and 3
    assert weight_magnitude([q, k, v], output, 2).tolist() == pytest.approx([math.sqrt(1 + 4 + 4 + 16), 5.0])
    assert weight_magnitude([], torch.zeros(2, 0), 0).tolist() == []
