"""Swaps inside a block, against all masks with as many units."""

from __future__ import annotations

import itertools

import pytest
import torch

from dsp_plugin.choosing import rearranged
from dsp_plugin.choosing.rearrangement import estimated_loss


def fisher_of(seed: int, units: int) -> torch.Tensor:
    gradients = torch.randn(3 * units, units, generator=torch.Generator().manual_seed(seed)).double()
    gradients[:, 1] += 0.7 * gradients[:, 0]
    return gradients.t() @ gradients / len(gradients)


def masks(units: int, kept: int):
    for chosen in itertools.combinations(range(units), kept):
        mask = torch.zeros(units, dtype=torch.bool)
        mask[list(chosen)] = True
        yield mask


def loss_by_hand(fisher: torch.Tensor, keep: torch.Tensor) -> float:
    gone = [unit for unit in range(len(keep)) if not keep[unit]]
    return 0.5 * sum(float(fisher[u, v]) for u in gone for v in gone)


@pytest.mark.parametrize("seed", range(20))
def test_no_swap_is_left_that_lowers_the_loss_and_the_best_mask_is_nearly_always_found(seed):
    fisher = fisher_of(seed, 7)
    start = torch.zeros(7, dtype=torch.bool)
    start[fisher.diagonal().topk(4).indices] = True
    found = rearranged(fisher, start)
    assert int(found.sum()) == 4
    value = loss_by_hand(fisher, found)
    assert value <= loss_by_hand(fisher, start) + 1e-12
    assert estimated_loss(fisher, found) == pytest.approx(value)
    for mask in masks(7, 4):
        if int((mask != found).sum()) == 2:  # one swap away
            assert loss_by_hand(fisher, mask) >= value - 1e-9
    best = min(loss_by_hand(fisher, mask) for mask in masks(7, 4))
    assert value <= 1.25 * best


def test_of_two_units_that_do_the_same_work_one_stays():
    # units 0 and 1 are twins, weaker one by one than 2 and 3, which are independent
    fisher = torch.eye(4, dtype=torch.float64) * 1.2
    fisher[:2, :2] = 1.0
    start = torch.tensor([False, False, True, True])
    found = rearranged(fisher, start)
    values = {tuple(mask.tolist()): loss_by_hand(fisher, mask) for mask in masks(4, 2)}
    assert values[tuple(found.tolist())] == pytest.approx(min(values.values()))
    assert loss_by_hand(fisher, start) > 1.5 * min(values.values())
    assert bool(found[0]) != bool(found[1])


def test_nothing_to_swap_stays_as_it_is():
    for keep in ([True] * 3, [False] * 3, [True, False, True]):
        keep = torch.tensor(keep)
        assert torch.equal(rearranged(torch.eye(3), keep), keep)
    assert rearranged(torch.zeros(0, 0), torch.zeros(0, dtype=torch.bool)).numel() == 0
    with pytest.raises(ValueError, match="Fisher matrix"):
        rearranged(torch.eye(3), torch.ones(2, dtype=torch.bool))
