"""Budgets: exactly K, by kind, with a minimum a block; the relaxed sampler keeps to them and hardens into
them.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from head_maps import head_map

from dsp_plugin.gating import HeadBudget, best_of_blocks, gumbel_noise, parse_heads_per_kind, relaxed_topk
from dsp_plugin.options.errors import OptionError

HEADS = head_map(
    ("e0", 3, "encoder-self"),
    ("e1", 2, "encoder-self"),
    ("c0", 3, "decoder-cross"),
    ("c1", 0, "decoder-cross"),
)
N = HEADS.num_heads
KIND = [block.kind for block in HEADS.blocks for _ in range(block.num_heads)]
BLOCK = [block.name for block in HEADS.blocks for _ in range(block.num_heads)]
SIZE = {block.name: block.num_heads for block in HEADS.blocks}


def allowed(budget_per_kind, total, minimum):
    """Every mask that keeps to the budget, by enumeration."""
    for flags in itertools.product([False, True], repeat=N):
        if total is not None and sum(flags) != total:
            continue
        if budget_per_kind and any(
            sum(f for f, k in zip(flags, KIND) if k == kind) != n for kind, n in budget_per_kind.items()
        ):
            continue
        if all(
            sum(f for f, b in zip(flags, BLOCK) if b == name) >= min(minimum, size)
            for name, size in SIZE.items()
        ):
            yield flags


BUDGETS = [
    (4, None, 0),
    (4, None, 1),
    (6, None, 2),
    (None, {"encoder-self": 2, "decoder-cross": 1}, 0),
    (5, {"encoder-self": 4, "decoder-cross": 1}, 1),
    (None, {"encoder-self": 0, "decoder-cross": 3}, 0),
    (8, None, 3),
    (0, None, 0),
]


@pytest.mark.parametrize("total, per_kind, minimum", BUDGETS)
def test_it_selects_the_best_mask_of_all_that_are_allowed(total, per_kind, minimum):
    budget = HeadBudget(HEADS, total, per_kind, minimum)
    for seed in range(20):
        scores = torch.randn(N, generator=torch.Generator().manual_seed(seed))
        keep = budget.select(scores)
        best = max(
            allowed(per_kind, total, minimum), key=lambda flags: float(scores[torch.tensor(flags)].sum())
        )
        assert keep.tolist() == list(best)
        assert int(keep.sum()) == budget.total


@pytest.mark.parametrize("total, per_kind, minimum", BUDGETS)
def test_the_relaxed_sample_keeps_to_the_budget(total, per_kind, minimum):
    budget = HeadBudget(HEADS, total, per_kind, minimum)
    torch.manual_seed(0)
    for temperature in (1.0, 0.05):
        scores = torch.randn(N, requires_grad=True)
        gates = budget.relaxed(scores, temperature, gumbel_noise((N,), device="cpu"))
        assert float(gates.detach().sum()) == pytest.approx(budget.total)
        for kind, n in (per_kind or {}).items():
            assert float(gates.detach()[[k == kind for k in KIND]].sum()) == pytest.approx(n)
        (gates * torch.arange(N)).sum().backward()
        assert bool(torch.isfinite(scores.grad).all())


@pytest.mark.parametrize("total, per_kind, minimum", BUDGETS)
def test_a_cold_sample_is_the_hard_choice_of_the_noisy_scores(total, per_kind, minimum):
    budget = HeadBudget(HEADS, total, per_kind, minimum)
    torch.manual_seed(1)
    for _ in range(20):
        scores, noise = torch.randn(N), gumbel_noise((N,), device="cpu")
        gates = budget.relaxed(scores, 1e-7, noise)
        torch.testing.assert_close(gates, budget.select(scores.double() + noise).double(), atol=1e-6, rtol=0)


def test_without_conditions_it_is_the_plain_sampler():
    torch.manual_seed(2)
    scores, noise = torch.randn(N), gumbel_noise((N,), device="cpu")
    assert torch.equal(HeadBudget(HEADS, 3).relaxed(scores, 0.3, noise), relaxed_topk(scores, 3, 0.3, noise))


def test_the_gradient_with_a_minimum_is_that_of_finite_differences():
    budget = HeadBudget(HEADS, 5, minimum=1)
    torch.manual_seed(3)
    scores = torch.randn(N, dtype=torch.float64, requires_grad=True)
    noise = gumbel_noise((N,), device="cpu")
    weights = torch.randn(N, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda w: (budget.relaxed(w, 0.7, noise) * weights).sum(), (scores,))


@pytest.mark.parametrize("total, per_kind, minimum", BUDGETS)
def test_straight_through(total, per_kind, minimum):
    budget = HeadBudget(HEADS, total, per_kind, minimum)
    scores = torch.randn(N, generator=torch.Generator().manual_seed(4), requires_grad=True)
    gates = budget.straight_through(scores)
    assert torch.equal(gates.detach(), budget.select(scores.detach()).float())
    gates.backward(torch.arange(N).float())
    assert torch.equal(scores.grad, torch.arange(N).float())


def test_ties_go_to_the_lower_index_within_the_budget():
    assert HeadBudget(HEADS, 4, minimum=1).select(torch.zeros(N)).tolist() == [
        True,
        True,
        False,
        True,
        False,
        True,
        False,
        False,
    ]
    scores = torch.full((N,), float("inf"))
    assert int(HeadBudget(HEADS, 4, minimum=1).select(scores).sum()) == 4


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((9,), r"num_of_heads.*0\.\.8"),
        ((-1,), r"num_of_heads.*0\.\.8"),
        ((None,), "num_of_heads"),
        ((3, {"encoder-self": 2, "decoder-cross": 2}), "adds up to 4 heads, num_of_heads says 3"),
        (
            (None, {"encoder-self": 2}),
            "heads_per_kind must give a number for each of encoder-self, decoder-cross",
        ),
        ((None, {"encoder-self": 6, "decoder-cross": 2}), r"heads_per_kind encoder-self.*0\.\.5"),
        ((2, None, 1), "min_heads_per_block 1 needs 3 heads"),
        ((2, None, -1), "min_heads_per_block"),
        (
            (None, {"encoder-self": 1, "decoder-cross": 2}, 1),
            "min_heads_per_block 1 needs 2 heads in 2 blocks.*encoder-self",
        ),
    ],
)
def test_budgets_that_cannot_be(arguments, message):
    with pytest.raises(OptionError, match=message):
        HeadBudget(HEADS, *arguments)


MIXED = head_map(("a", 3, "encoder-self"), ("b", 5, "encoder-ffn", 8), ("c", 4, "encoder-ffn", 8))


def test_heads_and_neurons_have_no_common_number():
    with pytest.raises(OptionError, match="num_of_heads counts heads and .*a kind with heads_per_kind"):
        HeadBudget(MIXED, 4)
    budget = HeadBudget(MIXED, None, {"encoder-self": 1, "encoder-ffn": 3}, minimum=1)
    keep = budget.select(torch.arange(12.0))
    assert [int(part.sum()) for part in MIXED.split(keep)] == [1, 1, 2]
    assert HeadBudget(head_map(("b", 5, "encoder-ffn", 8)), 4).total == 4  # of one size


def test_the_best_of_every_block():
    scores = torch.tensor([0.0, 2.0, 2.0, 5.0, 1.0, 4.0, 3.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    keep = best_of_blocks(MIXED, scores, {"encoder-self": 1, "encoder-ffn": 2})
    assert keep.nonzero().flatten().tolist() == [1, 3, 5, 8, 9]
    assert best_of_blocks(MIXED, scores, {"encoder-ffn": 0}).nonzero().flatten().tolist() == [0, 1, 2]
    for counts, message in (
        ({"decoder-ffn": 1}, "decoder-ffn.*encoder-self, encoder-ffn"),
        ({"encoder-ffn": 5}, r"heads_per_kind c must be a whole number in 0\.\.4"),
    ):
        with pytest.raises(OptionError, match=message):
            best_of_blocks(MIXED, scores, counts)


def test_kinds_on_the_command_line():
    assert parse_heads_per_kind("encoder-self=4, decoder-cross=2") == {"encoder-self": 4, "decoder-cross": 2}
    assert parse_heads_per_kind(None) is None
    for text in ("4", "encoder-self", "encoder-self=x", "a=1,a=2"):
        with pytest.raises(OptionError, match="heads_per_kind"):
            parse_heads_per_kind(text)
