"""Methods for the tests of the handshake, and how a half that is missing shows."""

from __future__ import annotations

import pytest
import torch
from gated_tiny import HEADS, N, train

from dsp_plugin.gating import (
    AlmostSureGates,
    ConcreteGates,
    ExactSubset,
    ExponentialCooling,
    FixedGates,
    HandshakeError,
    LagrangianGates,
    RankedGates,
    RelaxedSubset,
    Rounds,
    StraightThroughSubset,
    constant_temperature,
)
from dsp_plugin.gating.methods.almost_sure import DOUBLING

METHODS = {
    "annealed": lambda: RelaxedSubset(HEADS, 3, ExponentialCooling(1.0, 0.1, 100)),
    "constant": lambda: RelaxedSubset(HEADS, 3, constant_temperature(0.5)),
    "function": lambda: RelaxedSubset(HEADS, 3, lambda updates: 0.5),
    "straight-through": lambda: StraightThroughSubset(HEADS, 3),
    "concrete": lambda: ConcreteGates(HEADS, None, l0_penalty=0.1),
    "exact": lambda: ExactSubset(HEADS, 3),
    "lagrangian": lambda: LagrangianGates(HEADS, 3, 100),
    "almost-sure": lambda: AlmostSureGates(HEADS, 3, DOUBLING, Rounds("clip", 5), concentration=500.0),
    "ranked": lambda: RankedGates(HEADS, 3, torch.randn(N)),
    "fixed": lambda: FixedGates(torch.ones(N)),
}
LEARNING = [name for name in METHODS if name not in ("ranked", "fixed")]
every_learner = pytest.mark.parametrize("name", LEARNING)
every_method = pytest.mark.parametrize("name", METHODS)


def adam(*parameters, **options):
    return torch.optim.Adam([p for group in parameters for p in group], **options)


def refused(model, *optimizers, match, **how):
    """The first update goes through, the second does not."""
    train(model, *optimizers, updates=1, **how)
    with pytest.raises(HandshakeError, match=match):
        train(model, *optimizers, updates=1, **how)
