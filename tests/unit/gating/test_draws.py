"""A draw belongs to the forward pass that made it, whatever is computed again, in whichever order
gradients come back.
"""

from __future__ import annotations

import pytest
import torch
from gated_programs import KINDS, WIDTH, made, run_program

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def inputs() -> torch.Tensor:
    return torch.randn(3, WIDTH, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("seed", range(40))
@every_kind
def test_random_programs_give_the_gradients_they_give_without_checkpoints(kind, seed):
    plain, recomputed = made(seed), made(seed, kind)
    run_program(seed, plain), run_program(seed, recomputed)
    for one, other in zip(plain.gradients(), recomputed.gradients()):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(30))
@every_kind
def test_two_models_at_once_and_passes_that_errors_end(kind, seed):
    plain, recomputed = [made(seed), made(seed + 1)], [made(seed, kind), made(seed + 1, kind)]
    run_program(seed, *plain), run_program(seed, *recomputed)
    for before, after in zip(plain, recomputed):
        assert len(before.handed) == len(after.handed)
        for one, other in zip(before.gradients(), after.gradients()):
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if True not in kind], ids=str)
def test_a_mode_that_changes_before_the_backward_pass_is_not_the_forward_passs(kind, training):
    plain, recomputed = made(0, dropout=0.0), made(0, kind, dropout=0.0)
    for model in (plain, recomputed):
        model.eval()(inputs())  # the mask is known
        model.train(training)
        torch.manual_seed(1)
        out = model(inputs()).square().sum()
        model.train(not training)
        out.backward()
    for one, other in zip(plain.gradients(), recomputed.gradients()):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)


def test_a_hook_on_the_scores_runs_once_a_backward_pass():
    model = made(0)
    seen = []
    model.gating.gates.scores.register_hook(lambda gradient: seen.append(1) or 2 * gradient)
    torch.manual_seed(0)
    model(inputs()).sum().backward()
    doubled, model.gating.gates.scores.grad = model.gating.gates.scores.grad, None
    model.gating.gates.scores._backward_hooks.clear()
    torch.manual_seed(0)
    model(inputs()).sum().backward()
    assert seen == [1]
    torch.testing.assert_close(doubled, 2 * model.gating.gates.scores.grad)
