"""Weights around a gated model, scores that stand still, blocks that no forward pass reaches: seen, and
not too soon.
"""

from __future__ import annotations

import pytest
import torch
from gated_tiny import Tiny, loss_of, train
from handshakes import METHODS, adam, every_learner, refused
from torch import nn

from dsp_plugin.gating import HandshakeError
from dsp_plugin.gating.handshake.handshake import PATIENCE_LATER


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# ---- weights around the gated model, scores that somebody freezes or that stand still


class Around(nn.Module):
    """A user's own: a soft prompt before a gated model, a task head after it."""

    def __init__(self, gates: nn.Module):
        super().__init__()
        self.prompt, self.inner, self.own_head = nn.Parameter(torch.randn(6)), Tiny(gates), nn.Linear(2, 2)
        self.made = 0  # updates

    def step(self, *optimizers: torch.optim.Optimizer) -> None:
        self.made += 1
        self.inner.gating.set_num_updates(self.made)
        loss = (
            self.own_head(self.inner(torch.randn(5, 6) + self.prompt)).square().sum()
            + self.inner.gating.penalty()
        )
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


@every_learner
@pytest.mark.parametrize("part", ["prompt", "own_head"])
@pytest.mark.parametrize("frozen", [False, True])
def test_only_weights_outside_the_gated_model_train(name, part, frozen):
    model = Around(METHODS[name]())
    model.inner.requires_grad_(False), model.inner.gating.gates.requires_grad_(not frozen)
    trained = [p for key, p in model.named_parameters() if key.startswith(part)]
    optimizer = adam(trained)
    model.step(optimizer)
    before = [p.detach().clone() for p in trained]
    with pytest.raises(
        HandshakeError, match="frozen, and nothing has trained them" if frozen else "in no optimizer"
    ):
        model.step(optimizer)
    assert all(torch.equal(p, old) for p, old in zip(trained, before))
    assert not any(p._post_accumulate_grad_hooks for p in trained)


def test_weights_outside_and_the_scores_in_optimizers_of_their_own():
    model = Around(METHODS["constant"]())
    optimizers = adam(model.own_head.parameters()), adam([model.prompt]), adam(model.inner.parameters())
    for _ in range(4):
        model.step(*optimizers)


@every_learner
def test_a_critic_that_has_several_updates_to_one_of_a_gated_generator(name):
    model = Around(METHODS[name]())
    critic, generator = adam(model.own_head.parameters()), adam(model.inner.parameters())
    for step in range(12):
        model.step(critic)  # gradients come through the generator, and are thrown away
        if step % 6 == 5:
            model.step(critic, generator)
        model.zero_grad()


@every_learner
@pytest.mark.parametrize("outside", [False, True])
def test_scores_whose_updates_are_rare_are_borne_and_those_that_never_step_are_not(name, outside):
    model = Around(METHODS[name]())
    trained = model.own_head if outside else model.inner.task_head
    scores, weights = adam(model.inner.gating.parameters()), adam(trained.parameters())
    for _ in range(20):
        model.step(weights)
    with pytest.raises(HandshakeError, match="in no optimizer that steps"):
        for _ in range(2 * PATIENCE_LATER):
            model.step(weights)
    other = Around(METHODS[name]())
    scores, weights = adam(other.inner.gating.parameters()), adam(other.own_head.parameters())
    for step in range(120):
        other.step(weights, *[scores] * (step % 10 == 9))


def test_an_optimizer_of_another_model_beside_one_whose_updates_are_rare():
    model, other = Tiny(METHODS["constant"]()), nn.Linear(3, 3)
    optimizer, others = adam(model.parameters()), adam(other.parameters())
    for step in range(12):
        loss_of(model).backward()
        other(torch.randn(2, 3)).sum().backward()
        others.step()
        if step % 6 == 5:
            optimizer.step()


@every_learner
@pytest.mark.parametrize("before", [0, 1])
def test_scores_that_are_frozen_before_they_have_learnt(name, before):
    """As by PEFT, which freezes all that is not its own; here during the warm-up, in which they have
    stepped and learnt nothing.
    """
    model = Tiny(METHODS[name](), warmup_updates=5)
    optimizer = adam(model.parameters())
    train(model, optimizer, updates=before)
    model.gating.gates.requires_grad_(False)
    train(model, optimizer, updates=1)
    with pytest.raises(HandshakeError, match="frozen, and nothing has trained them"):
        train(model, optimizer, updates=1)


@every_learner
def test_only_scores_in_the_optimizer_and_they_are_frozen(name):
    model = Tiny(METHODS[name]())
    for p in model.parameters():
        p.requires_grad_(False)
    refused(
        model, adam(model.gating.parameters()), match="frozen, and nothing has trained them", penalty=False
    )


@every_learner
@pytest.mark.parametrize("alone", [False, True])
def test_scores_that_never_move(name, alone):
    model = Tiny(METHODS[name]())
    groups = [{"params": list(model.gating.parameters()), "lr": 0.0}]
    groups += [] if alone else [{"params": model.weights()}]
    refused(
        model,
        torch.optim.Adam(groups, lr=0.1),
        match="learning rate of 0 for 2 updates.*learning rate of its own",
    )
    assert model.gating.gates.decided is False


def test_a_rate_that_begins_or_ends_at_nothing():
    model = Tiny(METHODS["constant"]())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step, max(0, 3 - step)))
    for _ in range(8):
        train(model, optimizer, updates=1)
        schedule.step()
    assert model.gating.gates.trained == 2


# ---- a block that no forward pass reaches


class Partly(Tiny):
    """Its second block takes part only in some passes."""

    def forward(self, x):
        with self.gating.forward_pass(self):
            hidden = self.encode(x)
            if self.made % 90 == 89:
                return self.task_head(self.block(1, hidden))
            with torch.no_grad():
                self.block(1, hidden)
            return hidden


@pytest.mark.parametrize("loaded", [False, True])
def test_a_block_that_is_never_asked_for_is_refused_late(loaded):
    model = Tiny(METHODS["constant"]())
    if loaded:
        model.load_state_dict(model.state_dict())
    model.forward = model.encode
    optimizer = adam(model.parameters())
    train(model, optimizer, updates=99)
    if loaded:  # its scores are no chance's
        train(model, optimizer, updates=2)
        return
    with pytest.raises(
        HandshakeError, match="in 100 updates no forward pass has asked for the gates of c, .*at random"
    ):
        train(model, optimizer, updates=1)


def test_a_block_that_is_seldom_asked_for_is_not_refused():
    model = Partly(METHODS["constant"]())
    train(model, adam(model.parameters()), updates=120)
