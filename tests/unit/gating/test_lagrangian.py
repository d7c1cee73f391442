"""The L0 Lagrangian (CoFi) against its closed form, its multipliers, its target, and budgets of costs."""

from __future__ import annotations

import math

import pytest
import torch
from head_maps import head_map

from dsp_plugin.gating import ClosingOptions, ConcreteGates, CostBudget, HeadBudget, LagrangianGates
from dsp_plugin.gating.methods.advice import closed_heads
from dsp_plugin.gating.methods.closing_options import check_closing
from dsp_plugin.options.errors import OptionError

HEADS = head_map(("a", 4, "encoder-self"), ("b", 3, "decoder-self"))
N = HEADS.num_heads


def probability_of_zero(log_a: float) -> float:
    """P(gate = 0) of the stretched concrete distribution at 2/3, from its definition: the quantile of 0."""
    # stretch(s) <= 0 where s <= 0.1 / 1.2; s = sigmoid((logit(u) + log_a) / beta)
    s = 0.1 / 1.2
    return 1 / (1 + math.exp(-(2 / 3 * math.log(s / (1 - s)) - log_a)))


def gates_with(scores, prices=(0.0, 0.0), budget=3, closing_updates=0, start=0) -> LagrangianGates:
    gates = LagrangianGates(HEADS, budget, closing_updates, start)
    with torch.no_grad():
        gates.scores.copy_(torch.tensor(scores))
        gates.prices.copy_(torch.tensor([[price] * gates.prices.shape[1] for price in prices]))
    return gates


SCORES = [-3.0, -1.0, -0.2, 0.0, 0.4, 1.5, 4.0]


@pytest.mark.parametrize("l1, l2", [(0.0, 0.0), (2.0, 0.0), (-0.7, 3.0)])
def test_the_penalty_is_the_closed_form(l1, l2):
    s = 1 - sum(1 - probability_of_zero(a) for a in SCORES) / N
    t = (N - 3) / N
    gates = gates_with(SCORES, (l1, l2))
    penalty = gates.penalty()
    assert penalty.item() == pytest.approx(l1 * (s - t) + l2 * (s - t) ** 2, abs=1e-6)
    penalty.backward()
    for score, gradient in zip(SCORES, gates.scores.grad.tolist()):
        q0 = probability_of_zero(score)
        assert gradient == pytest.approx((l1 + 2 * l2 * (s - t)) * -q0 * (1 - q0) / N, abs=1e-7)
    # what a descending optimizer gets of the multipliers makes it ascend
    assert gates.prices.grad.flatten().tolist() == pytest.approx([-(s - t), -((s - t) ** 2)], abs=1e-6)


def test_a_gate_is_0_as_often_as_the_formula_says():
    gates = gates_with(SCORES)
    torch.manual_seed(0)
    zeros = torch.stack([(gates.sample() == 0).float() for _ in range(4000)]).mean(0)
    assert zeros.tolist() == pytest.approx([probability_of_zero(a) for a in SCORES], abs=0.04)


def test_the_target_rises_in_a_straight_line_and_is_told_by_the_updates_alone():
    gates = gates_with(SCORES, (1.0, 0.0), closing_updates=10, start=5)
    s, t = gates.closed().item(), (N - 3) / N
    for updates, share in ((0, 0.0), (5, 0.0), (10, 0.5), (15, 1.0), (100, 1.0)):
        gates.set_num_updates(updates)
        assert gates.penalty().item() == pytest.approx(s - share * t, abs=1e-6)
        assert gates.follows_updates() == (updates < 15)


def test_every_kind_has_a_constraint_of_its_own():
    budget = HeadBudget(HEADS, per_kind={"encoder-self": 1, "decoder-self": 3})
    gates = gates_with(SCORES, (1.0, 0.0), budget)
    assert gates.prices.shape == (2, 2)
    zeros = [probability_of_zero(a) for a in SCORES]
    assert gates.closed().tolist() == pytest.approx([sum(zeros[:4]) / 4, sum(zeros[4:]) / 3], abs=1e-6)
    assert gates.penalty().item() == pytest.approx(sum(zeros[:4]) / 4 - 3 / 4 + sum(zeros[4:]) / 3, abs=1e-6)


def train(gates, values, updates: int, rate: float = 0.1) -> None:
    """Let gates learn a loss in which an open head is worth its value."""
    optimizer = torch.optim.Adam(gates.parameters(), lr=rate)
    for update in range(updates):
        gates.set_num_updates(update)
        optimizer.zero_grad()
        (-(gates.sample() * values).sum() + gates.penalty()).backward()
        optimizer.step()
    gates.set_num_updates(updates)


def test_it_closes_as_many_as_asked_and_keeps_what_is_worth_most():
    torch.manual_seed(0)
    values = torch.tensor([0.05, 0.3, 0.01, 0.02, 0.3, 0.03, 0.3])
    gates = LagrangianGates(HEADS, 3, closing_updates=150)
    train(gates, values, 600)
    assert gates.keep().tolist() == (values > 0.1).tolist()
    assert gates.closed().item() == pytest.approx(4 / 7, abs=0.04)
    assert int((gates.scores > 0).sum()) == 3  # no head is open or closed by the ranking alone
    assert "THE GATES HAVE NOT SETTLED" not in " ".join(closed_heads(gates, str))
    fresh = LagrangianGates(HEADS, 3, closing_updates=150)
    assert "THE GATES HAVE NOT SETTLED" in " ".join(closed_heads(fresh, str))


# ---- costs in place of counts


def test_a_bound_on_cost_takes_the_best_that_fit():
    budget = CostBudget(torch.tensor([5.0, 3.0, 2.0, 1.0]), 0.55)  # of 11: 6.05
    assert budget.select(torch.tensor([4.0, 3.0, 2.0, 1.0])).tolist() == [True, False, False, True]
    assert budget.select(torch.tensor([1.0, 4.0, 3.0, 2.0])).tolist() == [False, True, True, True]
    assert budget.select(torch.zeros(4)).tolist() == [True, False, False, True]  # ties: the first that fit
    assert CostBudget(torch.full((10,), 0.1), 0.3).select(torch.arange(10.0)).sum() == 3
    assert CostBudget(torch.ones(3), 1.0).select(torch.zeros(3)).all()
    assert not CostBudget(torch.ones(3), 0.0).select(torch.zeros(3)).any()


@pytest.mark.parametrize(
    "costs, share", [([1.0, 0.0], 0.5), ([1.0, float("nan")], 0.5), ([1.0], 1.5), ([1.0], -0.1)]
)
def test_costs_that_cannot_be(costs, share):
    with pytest.raises(ValueError, match="cost"):
        CostBudget(torch.tensor(costs), share)


def test_the_constraint_weighs_by_cost():
    costs = torch.tensor([1.0, 1, 1, 1, 10, 10, 10])
    gates = gates_with(SCORES, (1.0, 0.0), CostBudget(costs, 0.4))
    s = sum(c * probability_of_zero(a) for c, a in zip(costs.tolist(), SCORES)) / 34
    assert gates.penalty().item() == pytest.approx(s - 0.6, abs=1e-6)
    # 13.6 of 34: the best, at 10, and then what is left is enough for three of the cheap ones
    assert gates.keep().tolist() == [False, True, True, True, False, False, True]
    with pytest.raises(ValueError, match="3 costs for 7 units"):
        LagrangianGates(HEADS, CostBudget(torch.ones(3), 0.5), 0)


def test_under_a_cost_cheap_heads_stay_that_a_count_would_give_away():
    torch.manual_seed(0)
    values, costs = (
        torch.tensor([0.1, 0.1, 0.1, 0.1, 0.15, 0.15, 0.15]),
        torch.tensor([1.0, 1, 1, 1, 4, 4, 4]),
    )
    gates = LagrangianGates(HEADS, CostBudget(costs, 0.25), 150)
    train(gates, values, 600)
    assert gates.keep().tolist() == [True] * 4 + [False] * 3


# ---- options


def test_what_the_options_make():
    budget = HeadBudget(HEADS, 3)
    assert type(ClosingOptions.of({"l0_penalty": 0.5}).gates(HEADS, budget)) is ConcreteGates
    assert ClosingOptions.of({}).gates(HEADS, None).l0_penalty == pytest.approx(0.02 / N)
    options = {"closing": "lagrangian", "closing_updates": 7, "pruning_warmup_updates": 3, "l0_penalty": None}
    gates = ClosingOptions.of(options).gates(HEADS, budget)
    assert isinstance(gates, LagrangianGates) and (gates.closing_updates, gates.start) == (7, 3)
    gates = ClosingOptions.of({**options, "cost_share": 0.5}).gates(HEADS, None, torch.ones(N))
    assert int(gates.keep().sum()) == 3
    for refused in ({}, {"cost_share": 0.5}):
        with pytest.raises(OptionError, match="needs a budget|does not tell"):
            ClosingOptions.of({**options, **refused}).gates(HEADS, None)
    assert ClosingOptions.of(options).warnings(10, str) == []
    (warning,) = ClosingOptions.of(options).warnings(9, str)
    assert "until update 10, the training has 9" in warning


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"closing": "soon"}, "closing must be one of penalty, lagrangian, pass, got 'soon'"),
        ({"closing": "lagrangian", "num_of_heads": 3, "l0_penalty": 1.0}, "l0_penalty is found by closing"),
        ({"closing": "lagrangian"}, "lagrangian needs a budget: give num_of_heads"),
        ({"closing_updates": 3}, "closing_updates has a say with closing lagrangian and pass alone"),
        ({"cost_share": 0.5, "num_of_heads": None}, "cost_share has a say with closing lagrangian alone"),
        (
            {"closing": "lagrangian", "cost_share": 0.5, "num_of_heads": 3},
            "cost_share and num_of_heads are two",
        ),
    ],
)
def test_options_that_exclude_each_other(asked, message):
    with pytest.raises(OptionError, match=message):
        check_closing(asked)


def test_options_that_go_together():
    check_closing({"closing": None, "l0_penalty": 1.0, "num_of_heads": 3})
    check_closing({"closing": "lagrangian", "closing_updates": 5, "heads_per_kind": "encoder-self=3"})
    check_closing({"closing": "lagrangian", "cost_share": 0.5})
