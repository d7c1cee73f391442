"""Fisher scores against one backward pass an example, on a network small enough to write down."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from head_maps import head_map

from dsp_plugin.choosing import FisherScores
from dsp_plugin.choosing.fisher import measure_fisher

UNITS = head_map(("a", 3, "encoder-self"), ("b", 0, "decoder-cross"), ("c", 2, "decoder-self"))


class Gated:
    """y = sum over units of gate_u (x . w_u), loss (y - t)^2 an example; gates [E, N] or [N]."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.weights = torch.randn(4, 5, generator=generator, dtype=torch.float64)
        self.inputs = torch.randn(7, 4, generator=generator, dtype=torch.float64)
        self.targets = torch.randn(7, generator=generator, dtype=torch.float64)
        self.gates = torch.ones(5, dtype=torch.float64)

    @contextmanager
    def override(self, gates):
        before, self.gates = self.gates, gates.double()
        yield
        self.gates = before

    def losses(self, chosen):
        shares = self.inputs[chosen] @ self.weights  # [E, N]
        return ((shares.tanh() * self.gates).sum(1) - self.targets[chosen]).square(), len(chosen)


def by_hand(model: Gated) -> list[torch.Tensor]:
    """The Fisher matrix of every block by one backward pass an example."""
    rows = []
    for example in range(7):
        gates = torch.ones(5, dtype=torch.float64, requires_grad=True)
        shares = (model.inputs[example] @ model.weights).tanh()
        ((shares * gates).sum() - model.targets[example]).square().backward()
        rows.append(gates.grad)
    full = torch.stack([torch.outer(row, row) for row in rows]).mean(0)
    return [full[:3, :3], full[3:3, 3:3], full[3:, 3:]]


def test_scores_are_those_of_single_backward_passes_whatever_the_batches():
    model = Gated()
    for batches in ([[0, 1, 2, 3, 4, 5, 6]], [[0, 1], [2, 3, 4, 5], [6]]):
        found = measure_fisher(UNITS, [(b, len(b)) for b in batches], model.losses, model.override)
        for block, expected in zip(found.blocks(), by_hand(model)):
            torch.testing.assert_close(block, expected, rtol=1e-5, atol=1e-6)
        diagonal = torch.cat([block.diagonal() for block in by_hand(model)])
        torch.testing.assert_close(found.value(), diagonal, rtol=1e-5, atol=1e-6)
        assert found.examples == 7


def test_gradients_that_cannot_be_are_refused():
    found = FisherScores(UNITS)
    with pytest.raises(ValueError, match="no example was counted"):
        found.value()
    with pytest.raises(ValueError, match="not finite"):
        found.add(torch.full((1, 5), float("nan")))
    with pytest.raises(ValueError, match="expected 5 values"):
        found.add(torch.zeros(2, 4))
