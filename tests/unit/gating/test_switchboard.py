"""What attention blocks are handed, in training, in evaluation and under an override."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dsp_plugin.gating import (
    AttentionBlock,
    FixedGates,
    HeadMap,
    RelaxedSubset,
    StraightThroughSubset,
    Switchboard,
    constant_temperature,
)

HEADS = HeadMap([AttentionBlock("a", 2, "encoder-self"), AttentionBlock("b", 3, "decoder-self")])


@pytest.fixture
def board() -> Switchboard:
    torch.manual_seed(0)
    return Switchboard(HEADS, RelaxedSubset(HEADS, 2, constant_temperature(1.0)))


def set_scores(board: Switchboard, values) -> None:
    with torch.no_grad():
        board.gates.scores.copy_(torch.tensor(values))


def in_eval(board: Switchboard):
    """The mask as the blocks see it, [N]; a block with all heads open is handed None."""
    parts = [board.block_gates(i) for i in range(len(HEADS.blocks))]
    return torch.cat(
        [torch.ones(b.num_heads) if g is None else g for g, b in zip(parts, HEADS.blocks)]
    ).tolist()


def test_it_refuses_gates_of_another_model():
    with pytest.raises(ValueError, match="4 heads.*with 5"):
        Switchboard(HEADS, FixedGates(torch.ones(4)))


def test_training_draws_once_a_forward_pass(board):
    board.draw()
    first = [board.block_gates(0), board.block_gates(1)]
    assert [tuple(g.shape) for g in first] == [(2,), (3,)]
    assert float(torch.cat(first).detach().sum()) == pytest.approx(2.0)
    # asked again, as a recomputed (checkpointed) layer does, it hands out the same tensors and draws nothing
    state = torch.get_rng_state()
    assert board.block_gates(0) is first[0] and board.block_gates(1) is first[1]
    assert torch.equal(torch.get_rng_state(), state)
    board.draw()
    assert not torch.equal(board.block_gates(1), first[1])


def test_training_without_a_draw_still_has_gates(board):
    assert board.block_gates(0).requires_grad


def test_the_gradient_of_the_blocks_reaches_the_scores(board):
    board.draw()
    board.block_gates(1)[0].backward()
    assert board.gates.scores.grad.abs().sum() > 0


def test_evaluation_hands_out_the_mask(board):
    board.draw()
    set_scores(board, [0.0, 3.0, 1.0, 2.0, -1.0])
    board.eval()
    board.draw()
    assert in_eval(board) == [0, 1, 0, 1, 0]
    assert not board.block_gates(0).requires_grad


def test_an_open_block_is_spared_the_multiplication(board):
    set_scores(board, [3.0, 3.0, 1.0, 2.0, -1.0])
    board.eval()
    assert board.block_gates(0) is None
    assert board.block_gates(1).tolist() == [0, 0, 0]


def test_evaluation_works_the_mask_out_once(board, monkeypatch):
    calls = []
    keep = board.gates.keep
    monkeypatch.setattr(board.gates, "keep", lambda: calls.append(1) or keep())
    board.eval()
    for _ in range(3):
        in_eval(board)
    assert len(calls) == 1


def test_switching_to_evaluation_again_sees_new_scores(board):
    set_scores(board, [3.0, 2.0, 0.0, 0.0, 0.0])
    board.eval()
    assert in_eval(board) == [1, 1, 0, 0, 0]
    board.train()
    set_scores(board, [0.0, 0.0, 0.0, 2.0, 3.0])
    board.eval()
    assert in_eval(board) == [0, 0, 0, 1, 1]


def test_an_optimizer_step_in_evaluation_is_seen(board):
    board.eval()
    set_scores(board, [5.0, 4.0, 0.0, 0.0, 0.0])
    assert in_eval(board) == [1.0, 1.0, 0.0, 0.0, 0.0]
    optimizer = torch.optim.SGD([{"params": [board.gates.scores], "lr": 1.0}])
    board.gates.scores.grad = torch.tensor([5.0, 4.0, 0.0, -3.0, -3.0])
    optimizer.step()
    assert in_eval(board) == [0.0, 0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("through_parent", [False, True])
def test_loading_a_state_is_seen_at_once(board, through_parent):
    board.eval()
    set_scores(board, [3.0, 2.0, 0.0, 0.0, 0.0])
    in_eval(board)
    other = copy.deepcopy(board)
    set_scores(other, [0.0, 0.0, 0.0, 2.0, 3.0])
    model, loaded = (nn.ModuleDict({"gating": m}) if through_parent else m for m in (board, other))
    model.load_state_dict(loaded.state_dict())
    assert in_eval(board) == [0, 0, 0, 1, 1]


def test_moving_the_model_drops_what_was_worked_out(board):
    board.eval()
    in_eval(board)
    set_scores(board, [0.0, 0.0, 0.0, 2.0, 3.0])
    board.to(torch.float64)
    assert in_eval(board) == [0, 0, 0, 1, 1]


def test_moving_the_parent_drops_what_was_worked_out(board):
    parent = nn.ModuleDict({"gating": board}).eval()
    in_eval(board)
    set_scores(board, [0.0, 0.0, 0.0, 2.0, 3.0])
    parent.half()
    assert in_eval(board) == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(5,), (4, 5)])
def test_an_override_is_used_as_it_is(board, training, shape):
    board.train(training)
    gates = torch.rand(shape, requires_grad=True)
    with board.override(gates):
        board.draw()
        assert torch.equal(board.block_gates(0), gates[..., :2])
        assert torch.equal(board.block_gates(1), gates[..., 2:])
        (board.block_gates(1) * 2).sum().backward()
    expected = torch.zeros(shape)
    expected[..., 2:] = 2.0
    assert torch.equal(gates.grad, expected)


def test_an_override_ends_even_with_an_error(board):
    board.eval()
    before = in_eval(board)
    with pytest.raises(RuntimeError, match="inside"):
        with board.override(torch.full((5,), 0.5)):
            raise RuntimeError("inside")
    assert in_eval(board) == before


def test_overrides_nest(board):
    with board.override(torch.full((5,), 0.5)):
        with board.override(torch.full((5,), 0.25)):
            assert board.block_gates(0).tolist() == [0.25, 0.25]
        assert board.block_gates(0).tolist() == [0.5, 0.5]


def test_an_override_of_another_size(board):
    with pytest.raises(ValueError, match="expected 5 values"):
        with board.override(torch.ones(4)):
            pass


def test_a_copy_in_the_middle_of_training(board):
    board.draw()
    twin = copy.deepcopy(board)
    twin.draw()
    twin.block_gates(0).sum().backward()
    assert board.gates.scores.grad is None and twin.gates.scores.grad is not None


def test_the_mask_of_straight_through_gates_follows_the_scores():
    board = Switchboard(HEADS, StraightThroughSubset(HEADS, 2))
    set_scores(board, [0.0, 3.0, 1.0, 2.0, -1.0])
    board.draw()
    assert in_eval(board) == [0, 1, 0, 1, 0]


def test_until_the_warm_up_is_over_all_heads_are_open_and_nothing_is_learnt():
    torch.manual_seed(0)
    board = Switchboard(HEADS, RelaxedSubset(HEADS, 2, constant_temperature(1.0)), warmup_updates=10)
    board.gates.penalty = lambda: board.gates.scores.sum()  # DSP itself has none
    for updates, open_heads, learns in ((9, 5.0, False), (10, 2.0, True)):
        board.set_num_updates(updates)
        board.draw()
        gates = torch.cat([board.block_gates(0), board.block_gates(1)])
        assert float(gates.detach().sum()) == pytest.approx(open_heads)
        board.gates.scores.grad = None
        ((gates * torch.arange(5.0)).sum() + board.penalty()).backward()
        assert board.gates.scores.grad is not None  # never left out: data-parallel training wants all of them
        assert bool((board.gates.scores.grad != 0).any()) == learns
    assert torch.equal(torch.tensor(in_eval(board.eval())), board.gates.keep().float())


def test_the_log_tells_of_the_warm_up(board):
    board.warmup_updates = 1
    assert board.metrics() == {"heads_open": 5.0}
    board.set_num_updates(1)
    assert "temperature" in board.metrics()
