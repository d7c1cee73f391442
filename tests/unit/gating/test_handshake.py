"""A method knows whether it is whole: each half missing, one at a time, is refused on the second update."""

from __future__ import annotations

import pytest
import torch
from gated_tiny import HEADS, N, Tiny, train
from handshakes import METHODS, adam, every_learner, every_method, refused

from dsp_plugin.gating import HandshakeError, RankedGates


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# ---- a half is missing


@every_learner
def test_scores_that_are_in_no_optimizer(name):
    model = Tiny(METHODS[name]())
    refused(model, adam(model.weights()), match="in no optimizer: give the optimizer all parameters")


@every_learner
def test_scores_that_are_in_no_optimizer_while_the_rest_is_frozen(name):
    model = Tiny(METHODS[name]())
    model.first.requires_grad_(False), model.second.requires_grad_(False)
    refused(model, adam(model.task_head.parameters()), match="in no optimizer")


@every_learner
def test_scores_that_are_frozen_and_random(name):
    model = Tiny(METHODS[name]())
    model.gating.gates.requires_grad_(False)
    refused(model, adam(model.weights()), match="frozen, and nothing has trained them")


def test_scores_that_are_frozen_after_they_were_trained_are_left_alone():
    model = Tiny(METHODS["constant"]())
    train(model, adam(model.parameters()))
    model.gating.gates.requires_grad_(False)
    train(model, adam(model.weights()))


def test_a_ranking_that_nobody_made():
    model = Tiny(RankedGates(HEADS, 3))
    refused(model, adam(model.weights()), match="nothing has ranked them: install a ranking")


def test_the_penalty_in_no_loss():
    model = Tiny(METHODS["concrete"]())
    refused(model, adam(model.parameters()), match="penalty was in no loss.*penalty\\(\\)", penalty=False)


def test_a_penalty_that_is_asked_for_and_goes_nowhere():
    model = Tiny(METHODS["concrete"]())
    optimizer = adam(model.parameters())
    with pytest.raises(HandshakeError, match="penalty was in no loss"):
        for _ in range(2):
            model.gating.penalty()
            train(model, optimizer, updates=1, penalty=False)


def test_a_penalty_that_is_lost_on_the_way():
    model = Tiny(METHODS["concrete"]())
    optimizer = adam(model.parameters())
    train(model, optimizer)
    with pytest.raises(HandshakeError, match="penalty was in no loss"):
        train(model, optimizer, updates=2, penalty=False)


def test_a_schedule_that_is_told_nothing():
    model = Tiny(METHODS["annealed"]())
    refused(model, adam(model.parameters()), match="stood still at 0.*set_num_updates", told=False)


@every_learner
def test_a_warm_up_that_never_ends(name):
    model = Tiny(METHODS[name](), warmup_updates=3)
    refused(model, adam(model.parameters()), match="stood still at 0", told=False)


@every_learner
def test_a_forward_pass_that_knows_of_no_gates(name):
    model = Tiny(METHODS[name](), deaf=True)
    refused(model, adam(model.parameters()), match="no gradient came through the gates")


@pytest.mark.parametrize(
    "options, match",
    [
        (
            {"lr": 0.1},
            "want a learning rate of 0.2 and a weight decay of 0, and the optimizer gives them a "
            "learning rate of 0.1",
        ),
        ({"lr": 0.2, "weight_decay": 0.3}, "gives them a learning rate of 0.2 and a weight decay of 0.3"),
    ],
)
def test_a_rate_or_a_decay_that_is_not_the_declared_one(options, match):
    model = Tiny(METHODS["constant"]())
    model.gating.handshake.expect(lr=0.2, weight_decay=0.0)
    with pytest.raises(HandshakeError, match=match):
        train(model, torch.optim.AdamW(model.parameters(), **options), updates=1)


def test_a_rate_that_somebody_has_written_is_put_back_in_an_optimizer_that_was_made_so():
    model = Tiny(METHODS["constant"]())
    optimizer = torch.optim.AdamW(
        [
            {"params": model.weights(), "lr": 0.01},
            {"params": model.gating.parameters(), "lr": 0.2, "weight_decay": 0.0},
        ]
    )
    model.gating.handshake.expect(lr=0.2, weight_decay=0.0, restore_in=optimizer)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    for _ in range(3):
        train(model, optimizer, updates=1)
        plateau.step(1.0)
    train(model, optimizer, updates=1)
    model_rate, scores_rate = (group["lr"] for group in optimizer.param_groups)
    assert scores_rate == 0.2 and model_rate < 0.01


def test_a_refused_update_is_not_made():
    model = Tiny(METHODS["concrete"]())
    optimizer = adam(model.parameters())
    train(model, optimizer, updates=1, penalty=False)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(HandshakeError):
        train(model, optimizer, updates=1, penalty=False)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before))


# ---- a draw and its forward pass


@every_learner
def test_parts_called_by_themselves(name):
    model = Tiny(METHODS[name]())
    for _ in range(3):
        first = model.encode(torch.randn(5, 6)).sum()
        (first + model.encode(torch.randn(5, 6)).sum()).backward()
        model.block(1, torch.randn(5, 4)).sum().backward()
        model(torch.randn(5, 6)).sum().backward()
    assert model.gating.gates.scores.grad.isfinite().all() and model.gating.gates.scores.grad.any()


@every_method
def test_parts_one_after_the_other_are_one_pass(name):
    model = Tiny(METHODS[name]())
    for _ in range(3):
        model.train()  # as the hosts do at every update
        model.block(1, model.encode(torch.randn(5, 6))).sum().backward()


@every_method
def test_parts_with_draws_of_their_own(name):
    model = Tiny(METHODS[name]())
    for _ in range(3):
        model.gating.draw()
        model.block(1, model.encode(torch.randn(5, 6))).sum().backward()


def test_a_block_that_several_layers_share_may_ask_as_often_as_it_likes():
    class Shared(Tiny):
        def forward(self, x):
            with self.gating.forward_pass(self):
                for _ in range(3):
                    x = torch.cat([self.block(1, self.block(0, x))] * 2, -1)
                return x

    model = Shared(METHODS["constant"]())
    for _ in range(2):
        model(torch.randn(5, 6)).sum().backward()


def test_nothing_is_refused_without_gradients_in_evaluation_or_under_an_override():
    model = Tiny(METHODS["constant"]())
    model(torch.randn(5, 6)).sum().backward()
    with torch.no_grad():  # generation inside training
        for _ in range(3):
            model.encode(torch.randn(5, 6))
    with model.gating.override(torch.ones(N)):
        for _ in range(3):
            model.encode(torch.randn(5, 6)).sum().backward()
    model.eval()
    for _ in range(3):
        model.encode(torch.randn(5, 6)).sum().backward()
