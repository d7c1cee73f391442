"""Voita's gates against closed forms: their distribution, their gradient, the penalty, the deployed heads."""

from __future__ import annotations

import math

import pytest
import torch

from dsp_plugin.gating import AttentionBlock, ConcreteGates, HeadBudget, HeadMap
from dsp_plugin.gating.methods.concrete import EPS, concrete_gates, open_probability
from dsp_plugin.options.errors import OptionError

BETA = 0.33
HEADS = HeadMap([AttentionBlock("a", 4, "encoder-self"), AttentionBlock("b", 3, "decoder-cross")])


def gates_with(log_a, budget=None, l0_penalty=0.5) -> ConcreteGates:
    values = torch.as_tensor(log_a, dtype=torch.float32)
    gates = ConcreteGates(HeadMap([AttentionBlock("a", len(values), "encoder-self")]), budget, l0_penalty)
    with torch.no_grad():
        gates.scores.copy_(values)
    return gates


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def by_hand(log_a: float, u: float) -> float:
    s = sigmoid((math.log(u) - math.log(1 - u) + log_a) / BETA)
    return min(1.0, max(0.0, s * (1.1 - -0.1) + -0.1))


# ---- training gates


@pytest.mark.parametrize("log_a", [-3.0, -0.8, 0.0, 0.5, 2.0])
def test_how_gates_are_distributed(log_a):
    """Of s the distribution is known: P(s <= x) = sigmoid(BETA logit(x) - log_a); a gate is 0 or 1 where s
    <= 1/12, >= 11/12.
    """
    torch.manual_seed(1)
    drawn = gates_with([log_a] * 100_000).sample().detach()

    def below(gate: float) -> float:
        x = (gate + 0.1) / 1.2
        return sigmoid(BETA * math.log(x / (1 - x)) - log_a)

    # 4 standard errors at most
    assert float((drawn == 0).double().mean()) == pytest.approx(below(0.0), abs=0.006)
    assert float((drawn <= 0.25).double().mean()) == pytest.approx(below(0.25), abs=0.006)
    assert float((drawn <= 0.5).double().mean()) == pytest.approx(below(0.5), abs=0.006)
    assert float((drawn == 1).double().mean()) == pytest.approx(1 - below(1.0), abs=0.006)


def test_every_forward_pass_has_noise_of_its_own():
    gates = gates_with([0.0] * 100)
    assert (gates.sample() != gates.sample()).float().mean() > 0.5


def test_the_gradient_is_that_of_the_formula():
    """Central differences of the sample at fixed noise; 0 where a gate is clipped."""
    torch.manual_seed(2)
    log_a = torch.empty(200, dtype=torch.float64).uniform_(-3, 3).requires_grad_()
    u = torch.empty(200, dtype=torch.float64).uniform_(EPS, 1 - EPS)
    gates = concrete_gates(log_a, u)
    gates.sum().backward()
    h, inside = 1e-6, 0
    for a, noise, gate, slope in zip(log_a.tolist(), u.tolist(), gates.tolist(), log_a.grad.tolist()):
        assert gate == pytest.approx(by_hand(a, noise), abs=1e-12)
        assert slope == pytest.approx((by_hand(a + h, noise) - by_hand(a - h, noise)) / (2 * h), abs=1e-8)
        inside += 0 < gate < 1
    assert 20 < inside < 180


@pytest.mark.parametrize("size", [20.0, 1e4, 1e30])
def test_saturated_gates_are_exact_and_finite(size):
    gates = gates_with([-size, size])
    loss = gates.sample().sum() + gates.penalty()
    loss.backward()
    assert gates.sample().tolist() == [0.0, 1.0]
    assert gates.penalty().item() == pytest.approx(0.5, abs=1e-6)
    assert gates.soft_gates().tolist() == [0.0, 1.0] and gates.keep().tolist() == [False, True]
    assert torch.isfinite(gates.scores.grad).all() and gates.scores.grad.abs().max() < 1e-6


@pytest.mark.parametrize("u", [EPS, 1 - EPS])
def test_the_most_extreme_noise(u):
    log_a = torch.tensor([-5.0, 0.0, 5.0], dtype=torch.float64, requires_grad=True)
    gates = concrete_gates(log_a, torch.full((3,), u, dtype=torch.float64))
    gates.sum().backward()
    assert gates.tolist() == pytest.approx([by_hand(a, u) for a in (-5.0, 0.0, 5.0)], abs=1e-12)
    assert torch.isfinite(log_a.grad).all()


# ---- the penalty


def test_the_penalty_is_the_expected_number_of_open_heads():
    """P(gate > 0), from the distribution of s: 1 - sigmoid(BETA logit(1/12) - log_a)."""
    values = [-4.0, -0.7, 0.0, 0.3, 2.5]
    gates = gates_with(values, l0_penalty=3.0)
    expected = [1 - sigmoid(BETA * math.log((1 / 12) / (11 / 12)) - a) for a in values]
    assert gates.penalty().item() == pytest.approx(3.0 * sum(expected), rel=1e-6)
    assert gates.metrics()["expected_open"].item() == pytest.approx(sum(expected), rel=1e-6)
    gates.penalty().backward()
    assert gates.scores.grad.tolist() == pytest.approx([3.0 * p * (1 - p) for p in expected], rel=1e-5)


def test_the_penalty_agrees_with_the_samples():
    torch.manual_seed(3)
    gates = gates_with([0.4] * 100_000)
    assert float((gates.sample() > 0).double().mean()) == pytest.approx(
        float(open_probability(torch.tensor(0.4))), abs=0.006
    )


@pytest.mark.parametrize("penalty", [-1.0, -1e-9, float("nan"), float("inf")])
def test_a_penalty_that_cannot_be(penalty):
    with pytest.raises(OptionError, match="l0_penalty must be 0 or more and finite"):
        ConcreteGates(HEADS, None, penalty)


# ---- the deployed heads


def test_without_a_budget_a_head_stays_where_its_soft_gate_is_above_one_half():
    values = torch.cat([torch.linspace(-6, 6, 241), torch.tensor([-1e-3, 1e-3])])
    gates = gates_with(values)
    kept = gates.keep()
    assert torch.equal(kept, gates.soft_gates() > 0.5)
    for value, gate in zip(values.tolist(), gates.soft_gates().tolist()):
        assert gate == pytest.approx(min(1.0, max(0.0, 1.2 * sigmoid(value) - 0.1)), abs=1e-6)
    assert int(gates.metrics()["heads_open"]) == int(kept.sum()) == int((values > 0).sum())


def test_with_a_budget_log_a_ranks_and_not_the_clipped_gate():
    open_, closed = gates_with([5.0, 6.0, 8.0, 7.0], budget=2), gates_with([-8.0, -5.0, -7.0, -6.0], budget=2)
    assert open_.soft_gates().tolist() == [1.0] * 4 and closed.soft_gates().tolist() == [0.0] * 4
    assert open_.keep().tolist() == [False, False, True, True]
    assert closed.keep().tolist() == [False, True, False, True]
    assert int(closed.metrics()["heads_open"]) == 2


def test_budgets_by_kind():
    budget = HeadBudget(HEADS, per_kind={"encoder-self": 1, "decoder-cross": 2})
    gates = ConcreteGates(HEADS, budget, 0.1)
    with torch.no_grad():
        gates.scores.copy_(torch.tensor([4.0, 5.0, 3.0, 2.0, -1.0, -3.0, -2.0]))
    assert gates.keep().nonzero().flatten().tolist() == [1, 4, 6]
