"""Factors of the survivors, against NumPy's least squares on the shares themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dsp_plugin.choosing import GramMatrix, rescaling_factors

H, D, C, T = 5, 3, 4, 60
KEEP = torch.tensor([True, False, True, True, False])


def drawn(seed: int):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(C, H * D, generator=generator, dtype=torch.float64)
    inputs = torch.randn(T, H * D, generator=generator, dtype=torch.float64)
    # a removed unit does partly what a kept one does
    weight[:, D : 2 * D] = weight[:, :D]
    inputs[:, D : 2 * D] += 0.8 * inputs[:, :D]
    return weight, inputs


def shares(weight, inputs) -> np.ndarray:
    """What every unit adds to the output, [T * C, H]."""
    parts = [
        inputs[:, D * u : D * (u + 1)] @ weight[:, D * u : D * (u + 1)].t() for u in range(H)
    ]  # each [T, C]
    return torch.stack(parts, -1).reshape(T * C, H).numpy()


@pytest.mark.parametrize("seed", range(5))
def test_factors_are_those_of_another_solver(seed):
    weight, inputs = drawn(seed)
    gram = GramMatrix(weight, H)
    gram.add(inputs[:25])
    gram.add(inputs[25:])
    columns = shares(weight, inputs)
    np.testing.assert_allclose(gram.total.numpy(), columns.T @ columns, rtol=1e-9, atol=1e-9)
    expected, *_ = np.linalg.lstsq(columns[:, KEEP.numpy()], columns.sum(1), rcond=None)
    np.testing.assert_allclose(rescaling_factors(gram.total, KEEP).numpy(), expected, rtol=1e-6)


def test_the_block_comes_nearer_to_what_it_was():
    weight, inputs = drawn(0)
    gram = GramMatrix(weight, H)
    gram.add(inputs)
    columns, whole = shares(weight, inputs)[:, KEEP.numpy()], shares(weight, inputs).sum(1)
    factors = rescaling_factors(gram.total, KEEP).numpy()
    assert ((columns @ factors - whole) ** 2).sum() < 0.9 * ((columns.sum(1) - whole) ** 2).sum()


def test_kept_units_that_do_the_same_work_share_a_factor():
    share = torch.ones(3, 3, dtype=torch.float64)  # three equal units, one of which goes
    factors = rescaling_factors(share, torch.tensor([True, True, False]))
    np.testing.assert_allclose(factors.numpy(), [1.5, 1.5])


def test_a_block_is_left_as_it_is_where_factors_would_be_wild_or_there_is_nothing_to_do():
    gram = torch.tensor([[1e-4, 1e-2], [1e-2, 1.0]], dtype=torch.float64)  # factor 101
    assert rescaling_factors(gram, torch.tensor([True, False])) is None
    near = torch.tensor([[0.01, 0.0899], [0.0899, 1.0]], dtype=torch.float64)  # factor 9.99
    assert rescaling_factors(near, torch.tensor([True, False])).item() == pytest.approx(9.99)
    for keep in ([True, True], [False, False]):
        assert rescaling_factors(gram, torch.tensor(keep)) is None
    assert rescaling_factors(torch.zeros(2, 2), torch.tensor([True, False])) is None
    assert rescaling_factors(torch.zeros(0, 0), torch.zeros(0, dtype=torch.bool)) is None
    with pytest.raises(ValueError, match="Gram matrix"):
        rescaling_factors(gram, torch.ones(3, dtype=torch.bool))
