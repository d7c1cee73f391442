"""Exact draws of K of N heads (SIMPLE), against the enumeration of all subsets."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from head_maps import head_map

from dsp_plugin.gating import ExactSubset, ExponentialCooling, HeadBudget, SubsetOptions, exact_subset
from dsp_plugin.gating.methods.subset_options import check_sampler
from dsp_plugin.options.errors import OptionError


def all_masks(theta: list[float], k: int, sizes=None, minimum: int = 0):
    """(masks [S, N], their probabilities [S]) of every subset of k that keeps to the minimum, one by one."""
    blocks, start = [], 0
    for size in sizes or [len(theta)]:
        blocks.append(range(start, start + size))
        start += size
    found = []
    for subset in itertools.combinations(range(len(theta)), k):
        if all(len(set(subset) & set(block)) >= min(minimum, len(block)) for block in blocks):
            found.append((subset, math.exp(sum(theta[i] for i in subset))))
    whole = sum(weight for _, weight in found)
    masks = torch.tensor([[float(i in subset) for i in range(len(theta))] for subset, _ in found])
    return masks.double(), torch.tensor([weight / whole for _, weight in found], dtype=torch.float64)


def scores(n: int, seed: int = 0, width: float = 2.0) -> torch.Tensor:
    return width * torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# heads, k, blocks, ones a block at least
CASES = [(n, k, None, 0) for n in range(1, 8) for k in range(n + 1)]
CASES += [
    (7, 5, (3, 1, 2, 1), 1),
    (7, 4, (3, 0, 4), 2),
    (7, 6, (2, 5), 3),
    (6, 3, (1, 1, 1, 3), 0),
    (3, 3, (2, 1), 2),
]
every_case = pytest.mark.parametrize("n, k, sizes, minimum", CASES)


@every_case
def test_marginals_and_their_gradient_are_those_of_the_enumeration(n, k, sizes, minimum):
    theta = scores(n, seed=n).requires_grad_()
    masks, probabilities = all_masks(theta.tolist(), k, sizes, minimum)
    expected = probabilities @ masks
    _, marginals = exact_subset(theta, k, 1, sizes, minimum)
    torch.testing.assert_close(marginals.detach(), expected, rtol=0, atol=1e-13)
    grad = scores(n, seed=100)
    marginals.backward(grad)
    apart = masks - expected
    torch.testing.assert_close(
        theta.grad, apart.T @ (probabilities[:, None] * apart) @ grad, rtol=0, atol=1e-12
    )


@every_case
def test_a_masks_gradient_is_that_of_the_marginals_and_of_many_their_sum(n, k, sizes, minimum):
    theta, weights = scores(n, seed=1).requires_grad_(), scores(3 * n, seed=2).reshape(3, n)
    masks, _ = exact_subset(theta, k, 3, sizes, minimum)
    assert bool(((masks == 0) | (masks == 1)).all()) and bool((masks.sum(1) == k).all())
    (masks * weights).sum().backward()
    through = theta.detach().clone().requires_grad_()
    _, marginals = exact_subset(through, k, 1, sizes, minimum)
    marginals.backward(weights.sum(0))
    torch.testing.assert_close(theta.grad, through.grad, rtol=0, atol=1e-13)


@pytest.mark.parametrize("n, k, sizes, minimum", [(6, 3, None, 0), (5, 1, None, 0), (7, 5, (3, 1, 2, 1), 1)])
def test_masks_are_drawn_as_often_as_their_probability_says(n, k, sizes, minimum):
    draws, theta = 20_000, scores(n, seed=3, width=0.8)
    known, probabilities = all_masks(theta.tolist(), k, sizes, minimum)
    generator = torch.Generator().manual_seed(4)
    masks, _ = exact_subset(theta, k, draws, sizes, minimum, generator)
    counts = (masks[:, None] == known).all(-1).sum(0)
    assert int(counts.sum()) == draws  # none but those that may be
    expected = probabilities * draws
    chi2, freedom = float(((counts - expected) ** 2 / expected).sum()), len(known) - 1
    assert expected.min() > 5 and chi2 < freedom + 4 * math.sqrt(2 * freedom)


def test_a_head_is_kept_with_the_papers_conditional_probability():
    """exp(theta_i + A[i-1, j-1] - A[i, j]) with the table A of the paper, head by head from the last one."""
    theta, k, draws = scores(5, seed=6, width=1.0), 2, 40_000
    table = {(0, 0): 1.0}
    for i in range(1, 6):
        for j in range(k + 1):
            table[i, j] = table.get((i - 1, j), 0.0) + table.get((i - 1, j - 1), 0.0) * math.exp(theta[i - 1])
    masks, _ = exact_subset(theta, k, draws, generator=torch.Generator().manual_seed(7))
    left = torch.full((draws,), k)
    for i in range(5, 0, -1):
        for j in range(k + 1):
            here = masks[left == j, i - 1]
            if len(here) > 500:
                chance = math.exp(theta[i - 1]) * table.get((i - 1, j - 1), 0.0) / table[i, j]
                assert float(here.mean()) == pytest.approx(chance, abs=4 * 0.5 / math.sqrt(len(here)))
        left = left - masks[:, i - 1].long()


@pytest.mark.parametrize("n, k", [(72, 9), (72, 68), (300, 75), (300, 299)])
@pytest.mark.parametrize("width", [0.5, 50.0, 1e4])
def test_hundreds_of_heads_however_far_apart_their_scores(n, k, width):
    theta = scores(n, seed=8, width=width).float().requires_grad_()
    masks, marginals = exact_subset(theta, k, 4)
    assert bool((masks.sum(1) == k).all())
    marginals = marginals.detach()
    assert float(marginals.sum()) == pytest.approx(k, abs=1e-6)
    assert float(marginals.min()) >= 0 and float(marginals.max()) <= 1 + 1e-9
    (masks * scores(n, seed=9)).sum().backward()
    assert bool(torch.isfinite(theta.grad).all()) and theta.grad.dtype == torch.float32
    assert float(theta.grad.double().sum()) == pytest.approx(0.0, abs=1e-4)  # a constant moves no mask
    if width == 1e4:  # so cold that all masks are the largest K
        best = theta.detach().topk(k).indices
        assert bool((masks[:, best] == 1).all())


def test_equal_scores_share_alike():
    _, marginals = exact_subset(torch.full((9,), 3.0), 4)
    torch.testing.assert_close(marginals, torch.full((9,), 4 / 9, dtype=torch.float64))


@pytest.mark.parametrize("k, minimum", [(-1, 0), (8, 0), (2, 1)])
def test_a_number_that_no_mask_has(k, minimum):
    with pytest.raises(ValueError, match="must be in"):
        exact_subset(torch.zeros(7), k, 1, (3, 2, 2), minimum)


def test_no_heads():
    masks, marginals = exact_subset(torch.zeros(0), 0, 3)
    assert masks.shape == (3, 0) and marginals.shape == (0,)


# ---- the gates

HEADS = head_map(("a", 4, "encoder-self"), ("b", 3, "decoder-self"))


def test_every_kind_keeps_to_its_own_number_and_every_block_to_the_minimum():
    budget = HeadBudget(HEADS, per_kind={"encoder-self": 1, "decoder-self": 2})
    gates = ExactSubset(HEADS, budget, mask_samples=50)
    sample = gates.sample()
    assert sample.shape == (50, 7)
    assert set(sample[:, :4].sum(1).tolist()) == {1.0} and set(sample[:, 4:].sum(1).tolist()) == {2.0}
    with torch.no_grad():
        gates = ExactSubset(HEADS, HeadBudget(HEADS, 3, minimum=1), mask_samples=50)
        gates.scores.copy_(torch.tensor([9.0, 9, 9, 9, 0, 0, 0]))
    assert float(gates.sample().detach()[:, 4:].sum(1).min()) == 1.0


def test_as_the_temperature_falls_masks_settle_on_the_deployed_one():
    gates = ExactSubset(HEADS, 3, ExponentialCooling(1.0, 0.001, 10), mask_samples=64)
    torch.manual_seed(0)
    assert gates.follows_updates() and not ExactSubset(HEADS, 3).follows_updates()
    warm = gates.sample().detach()
    assert len({tuple(row) for row in warm.tolist()}) > 5
    entropy = float(gates.metrics()["gate_entropy"])
    gates.set_num_updates(10)
    cold = gates.sample().detach()
    assert bool((cold == gates.keep().float()).all())
    assert gates.metrics()["temperature"] == 0.001 and float(gates.metrics()["gate_entropy"]) < entropy / 10


def test_what_the_options_make():
    options = {"sampler": "simple", "use_ste": False, "initial_temperature": 1.0, "final_temperature": 0.1}
    options |= {"cooldown_steps": 5, "mask_samples": 2}
    gates = SubsetOptions.of({**options, "annealing": False}).gates(HEADS, HeadBudget(HEADS, 3))
    assert isinstance(gates, ExactSubset) and gates.temperature == 1.0 and gates.mask_samples == 2
    gates = SubsetOptions.of({**options, "annealing": True}).gates(HEADS, HeadBudget(HEADS, 3))
    gates.set_num_updates(5)
    assert gates.temperature == 0.1
    assert SubsetOptions.of({**options, "annealing": False}).warnings(100, str) == []


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"sampler": "gumbel"}, "sampler must be one of relaxed, simple, got 'gumbel'"),
        ({"sampler": "simple", "use_ste": True}, "leave it or sampler out"),
        ({"sampler": "simple", "final_noise": 0.0, "annealing": True}, "final_noise has no say"),
        ({"sampler": "simple", "final_temperature": 0.1}, "final_temperature has no say with sampler simple"),
        ({"sampler": "simple", "cooldown_steps": 0}, "cooldown_steps has no say"),
    ],
)
def test_options_that_exclude_each_other(asked, message):
    with pytest.raises(OptionError, match=message):
        check_sampler(asked)


def test_options_that_go_together():
    check_sampler({"sampler": None, "use_ste": True, "final_temperature": 0.1})
    check_sampler({"sampler": "relaxed", "final_noise": 0.5, "annealing": True})
    check_sampler({"sampler": "simple", "annealing": True, "final_temperature": 0.1, "mask_samples": 4})
