"""Whole methods are not refused, however they are trained; and what has trained the scores."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from gated_tiny import HEADS, N, Tiny, loss_of, train
from handshakes import LEARNING, METHODS, adam, every_learner, every_method, refused
from torch import nn

from dsp_plugin.gating import ConcreteGates, HandshakeError, RankedGates, RelaxedSubset, constant_temperature


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# ---- whole


@every_method
@pytest.mark.parametrize("micro", [1, 3], ids=["alone", "accumulated"])
# torch cannot do it reentrantly
@pytest.mark.parametrize("recompute", [None, False], ids=["plain", "recomputed"])
@pytest.mark.parametrize("warmup", [0, 2])
def test_a_whole_method_is_not_refused(name, recompute, micro, warmup):
    model = Tiny(METHODS[name](), warmup, recompute)
    train(model, adam(model.parameters()), updates=5, micro=micro)


@every_method
def test_in_two_optimizers(name):
    model = Tiny(METHODS[name]())
    optimizers = [adam(model.weights())]
    if name != "fixed":
        optimizers.append(adam(model.gating.parameters()))
    train(model, *optimizers)
    train(model, *reversed(optimizers))


@every_learner
def test_pipelined(name):
    model = Tiny(METHODS[name]())
    for weight in model.weights():
        weight.requires_grad_(False)
    train(model, adam(model.gating.parameters()))


@every_learner
def test_an_optimizer_that_calls_the_model_itself(name):
    model = Tiny(METHODS[name]())
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    for update in range(3):
        model.gating.set_num_updates(update)

        def closure():
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            return loss

        optimizer.step(closure)


@every_learner
def test_a_loss_scale_and_skipped_updates(name):
    model = Tiny(METHODS[name]())
    optimizer = adam(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for update in range(6):
        model.gating.set_num_updates(update // 2)  # only updates that were made count
        loss = loss_of(model) * (float("inf") if update % 2 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


@every_learner
def test_float32_copies_as_fairseq_makes_them(name):
    model = Tiny(METHODS[name]())
    for parameter in model.gating.parameters():
        parameter.param_group, parameter.optim_overrides = "scores", {"optimizer": {"lr": [0.2]}}
    model.gating.handshake.expect(lr=0.2, weight_decay=0.0)
    copies = {p: nn.Parameter(p.detach().float().clone()) for p in model.parameters()}
    for p, copied in copies.items():
        for mark in ("param_group", "optim_overrides"):
            if hasattr(p, mark):
                setattr(copied, mark, getattr(p, mark))
    scores = [copies[p] for p in model.gating.parameters()]
    optimizer = torch.optim.Adam(
        [{"params": [copies[p] for p in model.weights()]}, {"params": scores, "lr": 0.2}]
    )
    for update in range(4):
        model.gating.set_num_updates(update)
        loss_of(model).backward()
        for p, copied in copies.items():
            copied.grad = p.grad
        optimizer.step()
        model.zero_grad()
    assert model.gating.gates.trained == 4
    optimizer.param_groups[1]["lr"] = 0.1
    with pytest.raises(HandshakeError, match="learning rate of 0.2"):
        optimizer.step()


def test_a_schedule_that_is_over_needs_no_numbers():
    model = Tiny(METHODS["annealed"]())
    model.gating.set_num_updates(100)
    train(model, adam(model.parameters()), told=False)


def test_gates_that_are_told_directly():
    model = Tiny(METHODS["annealed"]())
    optimizer = adam(model.parameters())
    for update in range(3):
        model.gating.gates.set_num_updates(update)
        train(model, optimizer, updates=1, told=False)


def test_the_switchboard_tells_its_gates():
    model = Tiny(METHODS["annealed"]())
    model.gating.set_num_updates(50)
    assert model.gating.gates.temperature == pytest.approx(0.1**0.5)


def test_a_lambda_of_nothing_needs_no_loss():
    model = Tiny(ConcreteGates(HEADS, 3, l0_penalty=0.0))
    train(model, adam(model.parameters()), penalty=False)


def test_somebody_elses_optimizer_is_nobodys_business():
    model, other = Tiny(METHODS["concrete"]()), nn.Linear(3, 3)
    optimizer = adam(other.parameters())
    for _ in range(4):
        loss_of(model, penalty=False)
        other(torch.randn(2, 3)).sum().backward()
        optimizer.step()


def test_copies_are_watched_by_themselves():
    """An average of the model, say, beside it."""
    model = Tiny(METHODS["concrete"]())
    model.gating.handshake.expect(lr=1e-3)
    average = copy.deepcopy(model)
    train(model, adam(model.parameters()))
    assert average.gating.gates.trained == 0
    refused(average, adam(average.parameters()), match="penalty was in no loss", penalty=False)
    other = copy.deepcopy(average)
    train(other, adam(other.parameters()))
    with pytest.raises(HandshakeError, match="learning rate of 0.001"):
        train(other, adam(other.parameters(), lr=0.1))
    lost = copy.deepcopy(average)
    refused(lost, adam(lost.weights()), match="in no optimizer")


def test_half_precision_on_the_way():
    for name in LEARNING:
        model = Tiny(METHODS[name]())
        with torch.autocast("cpu", torch.bfloat16):
            train(model, adam(model.parameters()))


def test_nothing_is_kept_alive():
    model = Tiny(METHODS["concrete"]())
    optimizer = adam(model.parameters())
    train(model, optimizer)
    loss_of(model).backward()
    gone = [weakref.ref(model), weakref.ref(model.gating), weakref.ref(model.gating.handshake)]
    del model, optimizer
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3


# ---- what has trained the scores


@every_learner
def test_updates_are_counted(name):
    model = Tiny(METHODS[name](), warmup_updates=2)
    optimizer = adam(model.parameters())
    assert model.gating.gates.decided is False
    train(model, optimizer, updates=2)
    assert model.gating.gates.decided is False  # the warm-up teaches nothing
    train(model, optimizer, updates=3)
    assert model.gating.gates.trained == 3 and model.gating.gates.decided is True
    assert "gating.gates.trained" not in model.state_dict()


def test_a_state_does_not_tell():
    model = Tiny(METHODS["constant"]())
    model.load_state_dict(Tiny(METHODS["constant"]()).state_dict())
    assert model.gating.gates.decided is None
    train(model, adam(model.parameters()))
    assert model.gating.gates.decided is True


def test_a_ranking_tells_whether_it_was_made():
    gates = RankedGates(HEADS, 3)
    assert gates.decided is False
    gates.install(torch.randn(N))
    assert gates.decided is True


def test_updates_in_which_layerdrop_leaves_out_every_layer_are_borne():
    """Once gradients have come through the gates, some updates without any are no sign of a missing half."""
    model = Tiny(RelaxedSubset(HEADS, 3, constant_temperature(0.1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, optimizer, updates=2)
    model.deaf = True
    train(model, optimizer, updates=50)
    with pytest.raises(HandshakeError, match="no gradient came through the gates"):
        train(model, optimizer, updates=60)
