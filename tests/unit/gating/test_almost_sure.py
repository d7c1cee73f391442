"""PASS against its formulas: terms, price, concentrator; clip and reopen; a resumed run does the same."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from head_maps import head_map

from dsp_plugin.gating import (
    AlmostSureGates,
    ClosingOptions,
    ConcreteGates,
    HandshakeError,
    HeadBudget,
    LagrangianGates,
    Rounds,
    Switchboard,
)
from dsp_plugin.gating.methods.advice import closed_heads
from dsp_plugin.gating.methods.almost_sure import DOUBLING, GrowingPrice, thousandfold
from dsp_plugin.gating.methods.closing_options import check_closing, label_of
from dsp_plugin.options.errors import OptionError

HEADS = head_map(("a", 4, "encoder-self"), ("none", 0, "decoder-cross"), ("b", 3, "decoder-self"))
N = HEADS.num_heads
SCORES = [-6.0, -5.0, -1.0, 0.3, 0.0, 2.0, 7.0]
A = 0.33 * math.log(0.1 / 1.1)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def probabilities(scores=SCORES) -> tuple[list[float], list[float]]:
    return [sigmoid(A - phi) for phi in scores], [sigmoid(A + phi) for phi in scores]


def gates_with(scores, budget=3, price=DOUBLING, rounds=None, concentration=None) -> AlmostSureGates:
    gates = AlmostSureGates(HEADS, budget, price, rounds or Rounds("off", 10), concentration)
    with torch.no_grad():
        gates.scores.copy_(torch.tensor(scores))
    return gates


# ---- the terms


def test_a_gate_is_0_and_1_as_often_as_the_formulas_say():
    gates = gates_with([-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0])
    torch.manual_seed(0)
    drawn = torch.stack([gates.sample().detach() for _ in range(4000)])
    q0, q1 = probabilities(gates.scores.tolist())
    assert (drawn == 0).float().mean(0).tolist() == pytest.approx(q0, abs=0.04)
    assert (drawn == 1).float().mean(0).tolist() == pytest.approx(q1, abs=0.04)


@pytest.mark.parametrize("weight", [None, 0.0, 40.0])
def test_the_penalty_is_the_closed_form(weight):
    gates = gates_with(SCORES, concentration=None if weight is None else 500.0)
    gates.weight.fill_(weight or 0.0)
    gates.times_off.fill_(3)
    q0, q1 = probabilities()
    terms = sum(1 - a - b for a, b in zip(q0, q1)) + abs(4 - sum(q0)) + abs(3 - sum(q1))
    if weight:
        terms += weight * ((1 - math.prod(q0[:4])) + (1 - math.prod(q0[4:])))
    assert gates.penalty().item() == pytest.approx(0.1 * 2**3 * terms, rel=1e-5)


def test_every_kind_has_targets_of_its_own():
    gates = gates_with(
        SCORES, HeadBudget(HEADS, per_kind={"encoder-self": 1, "decoder-cross": 0, "decoder-self": 2})
    )
    q0, q1 = probabilities()
    terms = sum(1 - a - b for a, b in zip(q0, q1))
    for part, kept in ((slice(0, 4), 1), (slice(4, 7), 2)):
        size = len(q0[part])
        terms += abs(size - kept - sum(q0[part])) + abs(kept - sum(q1[part]))
    assert gates.penalty().item() == pytest.approx(0.1 * terms, rel=1e-5)


def test_the_penalty_is_all_but_0_where_exactly_k_gates_are_surely_open():
    gates = gates_with([-30.0, 30, -30, 30, -30, -30, 30])
    assert gates.penalty().item() < 1e-6
    assert gates_with([-30.0, 30, -30, 30, -30, 30, 30]).penalty().item() == pytest.approx(0.2)


# ---- the price


def test_the_price_doubles_from_round_to_round_until_exactly_so_many_are_closed():
    gates = gates_with([0.0] * N, rounds=Rounds("off", 4, start=2))
    prices = []
    for update in range(16):
        if update == 12:
            with torch.no_grad():
                gates.scores.copy_(torch.tensor([-5.0, -6, -7, -8, 0, 1, 2]))
        gates.begin_update(update)
        gates.begin_update(update)  # once an update, however often it is called
        prices.append(round(float(gates.price()), 6))
    assert prices == [0.1] * 6 + [0.2] * 4 + [0.4] * 6


def test_the_price_of_the_mean_loss_grows_with_every_update_off_target_up_to_its_ceiling():
    gates = gates_with([0.0] * N, price=thousandfold(1000))
    for update in range(500):
        gates.begin_update(update)
    assert float(gates.price()) == pytest.approx(1e-5 * 1000**0.5)
    with torch.no_grad():
        gates.scores.copy_(torch.tensor([-5.0, -6, -7, -8, 0, 1, 2]))
    for update in range(500, 600):
        gates.begin_update(update)
    assert float(gates.price()) == pytest.approx(1e-5 * 1000**0.5)
    gates.times_off.fill_(10**6)
    assert float(gates.price()) == 1.0
    assert float(GrowingPrice(0.1, 2.0, 1, 50.0, True)(torch.tensor(500))) == 50.0


# ---- the concentrator


@pytest.mark.parametrize("seed", range(5))
def test_the_weight_is_the_smallest_that_closes_a_head_against_the_worst_that_opens_it(seed):
    torch.manual_seed(seed)
    scores = (3 * torch.randn(N)).tolist()
    weight = float(gates_with(scores, concentration=math.inf).least_weight())
    closing, opening = [], []
    for block in (range(4), range(4, 7)):
        for head in block:
            phi = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
            q0 = torch.sigmoid(A - phi)
            (closes,) = torch.autograd.grad(1 - q0[list(block)].prod(), phi)
            slopes = [
                float(torch.autograd.grad(torch.sigmoid(A + s * phi)[head], phi)[0][head]) for s in (-1, 1)
            ]
            if scores[head] > -5:
                closing.append(float(closes[head]))
                opening.append(2 * max(map(abs, slopes)))
    beaten = [weight * a - b for a, b in zip(closing, opening)]
    assert max(beaten) == pytest.approx(0.0, abs=1e-6 * max(opening) * weight)
    assert float(gates_with(scores, concentration=1.5).least_weight()) == pytest.approx(min(1.5, weight))


def test_the_weight_is_found_at_a_round_and_0_where_enough_are_closed():
    gates = gates_with([0.0] * N, rounds=Rounds("off", 4), concentration=500.0)
    for update in range(4):
        gates.begin_update(update)
    assert float(gates.weight) == 0.0  # the first round has none
    gates.begin_update(4)
    assert float(gates.weight) == pytest.approx(float(gates.least_weight())) and float(gates.weight) > 2
    with torch.no_grad():
        gates.scores.copy_(torch.tensor([-5.0, -6, -7, -8, 0, 1, 2]))
    gates.begin_update(5)
    assert float(gates.weight) == 0.0


def test_blocks_without_heads_and_models_without_any_have_no_weight_to_find():
    empty = head_map(("none", 0, "encoder-self"))
    gates = AlmostSureGates(empty, 0, DOUBLING, Rounds("clip", 2), 500.0)
    for update in range(5):
        gates.begin_update(update)
    assert gates.penalty().item() == 0.0 and gates.sample().numel() == 0


# ---- clip and reopen


def test_scores_are_clipped_at_the_second_round_and_not_before():
    scores, rounds = torch.tensor([-9.0, -5.0, 0.0, 8.0]), Rounds("clip", 5, start=3)
    moved = {update: rounds.begin(update, scores) for update in range(9)}
    assert [update for update, was in moved.items() if was] == [8]
    assert scores.tolist() == [-5.0, -5.0, 0.0, 5.0]


def test_closed_gates_reopen_with_their_confidence_which_falls_from_round_to_round():
    confidence, times = torch.tensor([0.2, 0.1, 0.4, 0.4]), 2000
    for number, share in ((2, 1.0), (4, 0.81)):
        opened = torch.zeros(4)
        for start in range(times):
            scores = torch.tensor([-7.0, -5.0, -5.0, -4.0])
            scores[3] += 1e-4 * start  # no draw is that of another run
            rounds = Rounds("reopen", 10, start)
            update = start + 10 * (number - 1)
            assert rounds.due(update) and not rounds.due(update + 1) and not rounds.due(start)
            rounds.note(confidence)
            rounds.begin(update, scores)
            opened += scores == 5.0
        expected = [0.5 * share, 0.25 * share, 1.0 * share]
        assert (opened[:3] / times).tolist() == pytest.approx(expected, abs=0.04)
    assert bool(opened[3] < times / 2)  # it was not closed, and is where it was or at the upper bound


def test_the_last_of_thirty_rounds_open_nothing_and_still_clip():
    rounds = Rounds("reopen", 10)
    due = [number for number in range(1, 31) if rounds.due(10 * (number - 1))]
    assert due == list(range(2, 24))
    scores = torch.full((3,), -9.0)
    assert rounds.begin(290, scores) and scores.tolist() == [-5.0] * 3


def test_two_processes_and_a_resumed_training_open_the_same_gates():
    states = []
    for _ in range(2):
        torch.manual_seed(len(states))  # each with random numbers of its own
        scores, rounds = torch.full((20,), -6.0), Rounds("reopen", 10)
        rounds.note(torch.full((20,), 0.5))
        with torch.no_grad():
            scores += 1e-3 * torch.arange(20.0)
        assert rounds.due(20)
        rounds.note(torch.linspace(0.01, 1.0, 20))
        rounds.begin(20, scores)
        states.append(scores)
    assert torch.equal(*states) and 0 < int((states[0] == 5).sum()) < 20


def test_what_nobody_has_told_is_missed():
    with pytest.raises(HandshakeError, match="nobody has said how many updates"):
        gates_with(SCORES, rounds=Rounds("clip")).begin_update(0)
    gates = gates_with(SCORES, rounds=Rounds("reopen", 2))
    gates.begin_update(0)
    with pytest.raises(HandshakeError, match="nobody has measured"):
        gates.begin_update(2)


@pytest.mark.parametrize(
    "reopening, length, match", [("soon", 1, "reopening must be one of"), ("clip", 0, "round")]
)
def test_rounds_that_cannot_be(reopening, length, match):
    with pytest.raises(OptionError, match=match):
        Rounds(reopening, length)


def test_whoever_draws_comes_by_what_is_due_and_a_copy_has_the_same_future():
    gates = gates_with([-9.0] * N, rounds=Rounds("clip", 2))
    board = Switchboard(HEADS, gates, warmup_updates=1)
    board.set_num_updates(0)
    board.draw()
    assert int(gates.times_off) == 0  # the warm-up
    twin = copy.deepcopy(board)
    for one in (board, twin):
        for update in range(1, 4):
            one.set_num_updates(update)
            one.penalty()
            one.draw()
    assert gates.scores.tolist() == twin.gates.scores.tolist() == [-5.0] * N
    assert int(gates.times_off) == int(twin.gates.times_off) == 1


def train(gates, values, first: int, last: int, optimizer) -> None:
    """Let gates learn a loss in which an open head is worth its value, by a switchboard."""
    board = Switchboard(HEADS, gates)
    for update in range(first, last):
        torch.manual_seed(update)
        board.set_num_updates(update)
        if gates.rounds.due(update):
            gates.rounds.note(torch.linspace(0.1, 1.0, N))
        board.draw()
        optimizer.zero_grad()
        loss = board.penalty()
        for position in range(3):
            part = board.block_gates(position)
            if part.numel():
                loss = loss - (part * values[slice(*HEADS.range(HEADS.blocks[position].name))]).sum()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("concentration", [None, 500.0])
def test_a_resumed_training_goes_on_as_it_would_have(concentration):
    values = torch.tensor([0.05, 0.3, 0.01, 0.02, 0.3, 0.03, 0.3])
    ends = []
    for stops in ((40,), (17, 40), (20, 21, 40)):
        state, first = None, 0
        for last in stops:
            torch.manual_seed(3)
            gates = AlmostSureGates(HEADS, 3, DOUBLING, Rounds("reopen", 10), concentration)
            optimizer = torch.optim.Adam(gates.parameters(), lr=0.5)
            if state is not None:
                gates.load_state_dict(state[0])
                optimizer.load_state_dict(state[1])
            train(gates, values, first, last, optimizer)
            state, first = copy.deepcopy((gates.state_dict(), optimizer.state_dict())), last
        ends.append(state[0])
    for other in ends[1:]:
        assert all(torch.equal(other[name], value) for name, value in ends[0].items())
    assert float(ends[0]["times_off"]) > 0


def test_it_closes_exactly_so_many_for_good_and_keeps_what_is_worth_most():
    values = torch.tensor([0.05, 0.3, 0.01, 0.02, 0.3, 0.03, 0.3])
    torch.manual_seed(0)
    gates = AlmostSureGates(HEADS, 3, DOUBLING, Rounds("clip", 20))
    train(gates, values, 0, 400, torch.optim.Adam(gates.parameters(), lr=0.2))
    assert gates.keep().tolist() == (values > 0.1).tolist()
    assert int((gates.scores <= -4.5).sum()) == 4
    assert float(gates.price()) < 1e4


# ---- options


def test_what_the_options_make():
    budget = HeadBudget(HEADS, 3)
    options = {"closing": "pass", "round_updates": 7, "pruning_warmup_updates": 3}
    gates = ClosingOptions.of(options).gates(HEADS, budget, of_mean_loss=False)
    assert isinstance(gates, AlmostSureGates) and gates.growth is DOUBLING and gates.concentration is None
    assert (gates.rounds.reopening, gates.rounds.length, gates.rounds.start) == ("reopen", 7, 3)
    of_mean = ClosingOptions.of({**options, "concentrate": True, "closing_updates": 9}).gates(HEADS, budget)
    assert of_mean.growth == thousandfold(9) and of_mean.concentration == 3000.0
    summed = ClosingOptions.of({**options, "concentrate": True}).gates(HEADS, budget, of_mean_loss=False)
    assert summed.concentration == 500.0
    # the controls
    voita = ClosingOptions.of({"l0_penalty": 1.0, "reopening": "reopen"}).gates(HEADS, budget)
    assert type(voita) is ConcreteGates and voita.rounds.reopening == "reopen"
    assert ClosingOptions.of({"l0_penalty": 1.0}).gates(HEADS, budget).rounds is None
    constraint = ClosingOptions.of({"closing": "lagrangian", "reopening": "clip"}).gates(HEADS, budget)
    assert isinstance(constraint, LagrangianGates) and constraint.rounds.reopening == "clip"
    clipped = ClosingOptions.of({**options, "reopening": "clip"}).gates(HEADS, budget)
    assert clipped.rounds.reopening == "clip"


def test_groups_of_neurons_have_no_confidence():
    heads = head_map(("a", 4, "encoder-self"), ("f", 3, "encoder-ffn", 8))
    budget = HeadBudget(heads, per_kind={"encoder-self": 1, "encoder-ffn": 1})
    with pytest.raises(OptionError, match="reopening reopen is by attention weights"):
        ClosingOptions.of({"closing": "pass"}).gates(heads, budget)
    ClosingOptions.of({"closing": "pass", "reopening": "clip"}).gates(heads, budget)


@pytest.mark.parametrize(
    "options, label",
    [
        ({}, ""),
        ({"reopening": "off"}, ""),
        ({"reopening": "reopen"}, "voita-reopen"),
        ({"closing": "lagrangian"}, "voita-lagrangian"),
        ({"closing": "pass"}, "voita-pass"),
        ({"closing": "pass", "concentrate": True, "reopening": "reopen"}, "voita-passconc"),
        ({"closing": "pass", "reopening": "off"}, "voita-pass-off"),
    ],
)
def test_names_in_records(options, label):
    assert label_of(options) == label


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"closing": "pass"}, "pass needs a budget"),
        (
            {"closing": "pass", "cost_share": 0.5, "num_of_heads": 3},
            "cost_share has a say with closing lagrangian",
        ),
        ({"closing": "pass", "num_of_heads": 3, "l0_penalty": 0.0}, "l0_penalty is found by closing pass"),
        ({"concentrate": True, "l0_penalty": 1.0}, "concentrate has a say with closing pass alone"),
        ({"round_updates": 5, "l0_penalty": 1.0}, "round_updates has a say with reopening or closing pass"),
        ({"reopening": "now"}, "reopening must be one of off, clip, reopen, got 'now'"),
    ],
)
def test_options_that_exclude_each_other(asked, message):
    with pytest.raises(OptionError, match=message):
        check_closing(asked)


def test_the_price_of_a_summed_loss_knows_no_updates():
    asked = {"closing": "pass", "num_of_heads": 3, "closing_updates": 5}
    check_closing(asked)
    with pytest.raises(OptionError, match="closing_updates has a say with closing lagrangian alone"):
        check_closing(asked, of_mean_loss=False)


def test_what_is_said_at_the_end():
    said = " ".join(closed_heads(gates_with([-5.0, -6, -7, -8, 0, 1, 2]), str))
    assert "has closed 4 gates for good" in said and "NOT SETTLED" not in said
    assert "THE GATES HAVE NOT SETTLED" in " ".join(closed_heads(gates_with(SCORES), str))
