"""The self-attention cache against plain concatenation. S steps, B hypotheses, W numbers a key or value."""

from __future__ import annotations

import torch

from dsp_plugin.mt.heads.decoding_cache import DecodingCache

B, W = 4, 3


def new(steps: int, hypotheses: int = B) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(steps, hypotheses, W), torch.randn(steps, hypotheses, W)


def test_appending_and_reordering_equal_plain_copies():
    torch.manual_seed(0)
    cache, keys, values = DecodingCache(), torch.empty(0, B, W), torch.empty(0, B, W)
    # None: no reordering before this step. The batch shrinks, and hypotheses are taken twice.
    for steps, order in (
        (1, None),
        (1, [1, 0, 0, 3]),
        (1, None),
        (2, [3, 2, 1, 0]),
        (1, [2, 2]),
        (1, [1, 0]),
        (3, None),
    ):
        if order is not None:
            cache.reorder(torch.tensor(order))
            keys, values = keys[:, order], values[:, order]
        more_keys, more_values = new(steps, keys.size(1))
        keys, values = torch.cat([keys, more_keys]), torch.cat([values, more_values])
        found_keys, found_values = cache.append(more_keys, more_values)
        assert torch.equal(found_keys, keys) and torch.equal(found_values, values)


def test_after_a_reordering_the_next_step_is_written_in_place():
    cache = DecodingCache()
    cache.append(*new(2))
    cache.reorder(torch.arange(B))
    room = cache._storage
    keys, _ = cache.append(*new(1))
    assert keys.data_ptr() == room.data_ptr() and keys.size(0) == 3


def test_gradients_reach_every_step():
    cache, first, second = DecodingCache(), new(1), new(1)
    for tensor in (*first, *second):
        tensor.requires_grad_()
    cache.append(*first)
    cache.reorder(torch.tensor([0, 0, 1, 2]))
    keys, values = cache.append(*second)
    (keys.sum() + 2 * values.sum()).backward()
    times_taken = torch.tensor([2.0, 1.0, 1.0, 0.0])[None, :, None].expand(1, B, W)
    assert torch.equal(first[0].grad, times_taken) and torch.equal(first[1].grad, 2 * times_taken)
    assert torch.equal(second[0].grad, torch.ones(1, B, W)) and torch.equal(
        second[1].grad, torch.full((1, B, W), 2.0)
    )
