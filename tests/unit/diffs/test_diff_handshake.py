"""A diff in training knows of other optimizers on its weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dsp_plugin.diffs import DiffAdamW, DiffVector, FixMaskAdamW, SparseDiff
from dsp_plugin.gating import HandshakeError


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


def step(network, *optimizers) -> None:
    network.train()
    network(torch.randn(3, 4)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def mask_of(network) -> SparseDiff:
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    return SparseDiff({"0.weight": (torch.tensor([1, 5]), torch.zeros(2))}, shapes)


@pytest.mark.parametrize("named, said", [({}, "DiffAdamW"), ({"optimizer_name": "diff_adam"}, "diff_adam")])
def test_an_optimizer_that_knows_nothing_of_the_diff(named, said):
    network = model()
    vector = DiffVector(network, **named)
    stock = torch.optim.Adam(network.parameters())
    with pytest.raises(HandshakeError, match=f"train with {said}, or"):
        step(network, stock)
    vector.detach()
    step(network, stock)


def test_the_diffs_own_optimizer_beside_one_of_another_model():
    network, other = model(), model()
    vector = DiffVector(network, task_head=["2"])
    for _ in range(3):
        step(network, DiffAdamW(vector))
        step(other, torch.optim.Adam(other.parameters()))


def test_fixed_positions_and_an_optimizer_of_all_weights():
    network = model()
    fixed = FixMaskAdamW(network, mask_of(network), task_head=["2"])
    for _ in range(3):
        step(network, fixed)
    network.requires_grad_(True)
    stock = torch.optim.Adam(network.parameters())
    step(network, stock)  # a stage of its own
    with pytest.raises(HandshakeError, match="another optimizer moves the weights"):
        step(network, fixed)


def test_a_state_of_fixed_positions_can_be_copied():
    network = model()
    copy.deepcopy(FixMaskAdamW(network, mask_of(network)).state_dict())
