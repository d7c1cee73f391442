"""Several masks a training pass: each row is a sample of its own, and examples take the rows in turn."""

from __future__ import annotations

import pytest
import torch

from dsp_plugin.gating import (
    AttentionBlock,
    HeadBudget,
    HeadMap,
    RelaxedSubset,
    Switchboard,
    constant_temperature,
    relaxed_topk,
)
from dsp_plugin.gating.gates import for_examples
from dsp_plugin.gating.sampling.relaxed_topk import gumbel_noise
from dsp_plugin.options.errors import OptionError

HEADS = HeadMap([AttentionBlock("a", 3, "x"), AttentionBlock("b", 4, "y")])
BUDGETS = {
    "one": HeadBudget(HEADS, 3),
    "minimum": HeadBudget(HEADS, 4, None, 1),
    "kinds": HeadBudget(HEADS, None, {"x": 1, "y": 2}),
}


@pytest.mark.parametrize("k", [0, 1, 3, 7])
@pytest.mark.parametrize("temperature", [0.05, 0.5, 2.0])
def test_every_row_is_the_sample_of_its_own_scores(k, temperature):
    rows = (torch.randn(5, 7, dtype=torch.float64) * 2).requires_grad_()
    weights = torch.randn(5, 7, dtype=torch.float64)
    together = relaxed_topk(rows, k, temperature)
    (together * weights).sum().backward()
    for row, wanted, weight, gradient in zip(rows, together, weights, rows.grad):
        alone = row.detach().clone().requires_grad_()
        drawn = relaxed_topk(alone, k, temperature)
        (drawn * weight).sum().backward()
        assert torch.allclose(drawn, wanted, rtol=1e-9, atol=1e-12)
        assert torch.allclose(alone.grad, gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", BUDGETS)
def test_a_budget_draws_each_row_as_it_draws_one(name):
    scores = torch.randn(7, requires_grad=True)
    noise = gumbel_noise((4, 7), device="cpu")
    together = BUDGETS[name].relaxed(scores, 0.3, noise)
    together.square().sum().backward()
    gradient, scores.grad = scores.grad, None
    alone = torch.stack([BUDGETS[name].relaxed(scores, 0.3, row) for row in noise])
    alone.square().sum().backward()
    assert torch.allclose(together, alone, rtol=1e-9, atol=1e-12)
    assert torch.allclose(gradient, scores.grad, rtol=1e-4, atol=1e-6)
    assert torch.allclose(together.sum(-1), torch.full((4,), float(BUDGETS[name].total), dtype=torch.float64))


def test_examples_take_the_rows_in_turn():
    rows = torch.arange(6.0).view(3, 2)
    assert for_examples(rows, 3) is rows
    assert for_examples(rows, 2).tolist() == rows[:2].tolist()
    assert for_examples(rows, 7).tolist() == [rows[b % 3].tolist() for b in range(7)]
    shared = torch.ones(2)
    assert for_examples(shared, 5) is shared


def test_a_pass_hands_its_blocks_the_rows_of_one_draw():
    gates = RelaxedSubset(HEADS, 3, constant_temperature(0.5), mask_samples=4)
    board = Switchboard(HEADS, gates).train()
    with board.forward_pass(torch.nn.Identity()):
        parts = [board.block_gates(0), board.block_gates(1)]
    assert [tuple(part.shape) for part in parts] == [(4, 3), (4, 4)]
    assert torch.allclose(torch.cat(parts, -1).sum(-1), torch.full((4,), 3.0), atol=1e-5)
    assert 0 < float(gates.metrics()["heads_open"]) <= 7
    torch.cat(parts, -1).square().sum().backward()
    assert gates.scores.grad.abs().sum() > 0
    board.eval()
    assert board.block_gates(0) is None or board.block_gates(0).dim() == 1


def test_the_gradient_varies_less_the_more_masks():
    """Of a loss that is linear in the gates; the mean is the same, the variance an M-th."""
    value = torch.linspace(-1, 1, 7)

    def gradients(samples: int) -> torch.Tensor:
        gates = RelaxedSubset(HEADS, 3, constant_temperature(0.5), mask_samples=samples)
        gates.begin_with(torch.linspace(0.5, -0.5, 7))
        found = []
        for _ in range(400):
            gates.scores.grad = None
            (gates.sample() * value).sum(-1).mean().backward()
            found.append(gates.scores.grad.clone())
        return torch.stack(found)

    torch.manual_seed(3)
    one, many = gradients(1), gradients(16)
    assert torch.allclose(one.mean(0), many.mean(0), atol=4 * float(one.std(0).max()) / 400**0.5)
    ratio = float(one.var(0).mean() / many.var(0).mean())
    assert 10 < ratio < 25


@pytest.mark.parametrize("samples", [0, -2])
def test_a_number_that_cannot_be(samples):
    with pytest.raises(OptionError, match="mask_samples must be 1 or more"):
        RelaxedSubset(HEADS, 3, constant_temperature(0.5), mask_samples=samples)
