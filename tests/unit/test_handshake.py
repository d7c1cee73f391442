"""A method knows whether it is whole: each half missing, one at a time, is refused on the second update; what is whole, is not."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from gated_tiny import HEADS, N, Tiny, loss_of, train
from torch import nn

from dsp_plugin.gating import (
    ConcreteGates,
    ExponentialCooling,
    FixedGates,
    HandshakeError,
    RankedGates,
    RelaxedSubset,
    StraightThroughSubset,
    constant_temperature,
)
from dsp_plugin.gating.handshake import PATIENCE_LATER

METHODS = {
    "annealed": lambda: RelaxedSubset(HEADS, 3, ExponentialCooling(1.0, 0.1, 100)),
    "constant": lambda: RelaxedSubset(HEADS, 3, constant_temperature(0.5)),
    "function": lambda: RelaxedSubset(HEADS, 3, lambda updates: 0.5),
    "straight-through": lambda: StraightThroughSubset(HEADS, 3),
    "concrete": lambda: ConcreteGates(HEADS, None, l0_penalty=0.1),
    "ranked": lambda: RankedGates(HEADS, 3, torch.randn(N)),
    "fixed": lambda: FixedGates(torch.ones(N)),
}
LEARNING = [name for name in METHODS if name not in ("ranked", "fixed")]
every_learner = pytest.mark.parametrize("name", LEARNING)
every_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def adam(*parameters, **options):
    return torch.optim.Adam([p for group in parameters for p in group], **options)


def refused(model, *optimizers, match, **how):
    """The first update goes through, the second does not."""
    train(model, *optimizers, updates=1, **how)
    with pytest.raises(HandshakeError, match=match):
        train(model, *optimizers, updates=1, **how)


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
        ({"lr": 0.1}, "want a learning rate of 0.2 and a weight decay of 0, and the optimizer gives them a learning rate of 0.1"),
        ({"lr": 0.2, "weight_decay": 0.3}, "gives them a learning rate of 0.2 and a weight decay of 0.3"),
    ],
)
def test_a_rate_or_a_decay_that_is_not_the_declared_one(options, match):
    model = Tiny(METHODS["constant"]())
    model.gating.handshake.wants(lr=0.2, weight_decay=0.0)
    with pytest.raises(HandshakeError, match=match):
        train(model, torch.optim.AdamW(model.parameters(), **options), updates=1)


def test_a_rate_that_somebody_has_written_is_put_back_in_an_optimizer_that_was_made_so():
    model = Tiny(METHODS["constant"]())
    optimizer = torch.optim.AdamW(
        [{"params": model.weights(), "lr": 0.01}, {"params": model.gating.parameters(), "lr": 0.2, "weight_decay": 0.0}]
    )
    model.gating.handshake.wants(lr=0.2, weight_decay=0.0, keep=optimizer)
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
        loss = self.own_head(self.inner(torch.randn(5, 6) + self.prompt)).square().sum() + self.inner.gating.penalty()
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
    with pytest.raises(HandshakeError, match="frozen, and nothing has trained them" if frozen else "in no optimizer"):
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
    """As by PEFT, which freezes all that is not its own; here during the warm-up, in which they have stepped and learnt nothing."""
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
    refused(model, adam(model.gating.parameters()), match="frozen, and nothing has trained them", penalty=False)


@every_learner
@pytest.mark.parametrize("alone", [False, True])
def test_scores_that_never_move(name, alone):
    model = Tiny(METHODS[name]())
    groups = [{"params": list(model.gating.parameters()), "lr": 0.0}]
    groups += [] if alone else [{"params": model.weights()}]
    refused(model, torch.optim.Adam(groups, lr=0.1), match="learning rate of 0 for 2 updates.*learning rate of its own")
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
    with pytest.raises(HandshakeError, match="in 100 updates no forward pass has asked for the gates of c, .*at random"):
        train(model, optimizer, updates=1)


def test_a_block_that_is_seldom_asked_for_is_not_refused():
    model = Partly(METHODS["constant"]())
    train(model, adam(model.parameters()), updates=120)


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


# ---- whole


@every_method
@pytest.mark.parametrize("micro", [1, 3], ids=["alone", "accumulated"])
@pytest.mark.parametrize("recompute", [None, False], ids=["plain", "recomputed"])  # torch cannot do it reentrantly
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
    model.gating.handshake.wants(lr=0.2, weight_decay=0.0)
    copies = {p: nn.Parameter(p.detach().float().clone()) for p in model.parameters()}
    for p, copied in copies.items():
        for mark in ("param_group", "optim_overrides"):
            if hasattr(p, mark):
                setattr(copied, mark, getattr(p, mark))
    scores = [copies[p] for p in model.gating.parameters()]
    optimizer = torch.optim.Adam([{"params": [copies[p] for p in model.weights()]}, {"params": scores, "lr": 0.2}])
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
    model.gating.handshake.wants(lr=1e-3)
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
