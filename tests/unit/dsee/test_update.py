"""The masked update against a dense float64 reference, forward and backward; the merge."""

from __future__ import annotations

import math

import pytest
import torch

from dsp_plugin.dsee.artefact import Update
from dsp_plugin.dsee.merge import merged_weight
from dsp_plugin.dsee.scores import Matrix
from dsp_plugin.dsee.update import SPREAD, LowRankSparse, add_update
from dsp_plugin.dsee.weight_masks import PackedMask
from dsp_plugin.options.errors import OptionError


def parts(rows=6, columns=5, rank=2, entries=9, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    positions = torch.randperm(rows * columns, generator=generator)[:entries].sort().values
    down, up, values = draw(rank, columns), draw(rows, rank), draw(entries)
    return down, up, positions // columns, positions % columns, values


def dense(down, up, rows, columns, values):
    full = torch.zeros(up.shape[0], down.shape[1], dtype=values.dtype)
    for row, column, value in zip(rows.tolist(), columns.tolist(), values):
        full[row, column] += value
    return up @ down + full


@pytest.mark.parametrize("entries", [0, 1, 9, 30])
@pytest.mark.parametrize("lead", [(7,), (2, 3), (1, 2, 2)])
def test_the_update_is_the_dense_product(entries, lead):
    tables = parts(entries=entries)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*lead, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    start = torch.randn(*lead, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(*lead, 6, generator=generator, dtype=torch.float64)
    inputs = [start, x, tables[0], tables[1], tables[4]]
    expected = start + 1.5 * (x @ dense(*tables).T)
    gradients = torch.autograd.grad((expected * weight).sum(), inputs, allow_unused=True)
    found = add_update(start.clone(), x, *tables, 1.5)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    others = torch.autograd.grad((found * weight).sum(), inputs, allow_unused=True)
    for one, other in zip(gradients, others):
        if one is not None:
            torch.testing.assert_close(other, one, rtol=1e-11, atol=1e-12)


def test_gradients_by_finite_differences():
    down, up, rows, columns, values = parts()
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    start = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)

    def run(start, x, down, up, values):
        return add_update(start * 1.0, x, down, up, rows, columns, values, 0.7)

    assert torch.autograd.gradcheck(run, (start, x, down, up, values))
    # what is frozen, or comes from frozen embeddings, needs none
    x.requires_grad_(False)
    start.requires_grad_(False)
    assert torch.autograd.gradcheck(lambda *some: run(start, x, *some), (down, up, values))


def test_no_tensor_of_the_matrix_s_size_is_made():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Sizes(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for one in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(one, torch.Tensor) and not one._is_view():
                    self.largest = max(self.largest, one.numel())
            return out

    tables = parts(64, 64, entries=20, dtype=torch.float32)
    x = torch.randn(3, 64, requires_grad=True)
    with Sizes() as sizes:
        add_update(torch.zeros(3, 64), x, *tables, 1.0).sum().backward()
    assert 0 < sizes.largest <= 3 * 64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_keep_their_dtype(dtype):
    tables = parts(dtype=torch.float32)
    x = torch.randn(4, 5).to(dtype).requires_grad_()
    found = add_update(torch.zeros(4, 6, dtype=dtype), x, *tables, 1.5)
    found.float().sum().backward()
    assert found.dtype == dtype and x.grad.dtype == dtype and tables[0].grad.dtype == torch.float32
    expected = 1.5 * (x.detach().float() @ dense(*tables).detach().T)
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.1)


def test_the_module_starts_from_nothing_and_counts():
    module = LowRankSparse((8, 6), 4, 8, torch.tensor([0, 7, 47]), torch.Generator().manual_seed(0))
    x, output = torch.randn(5, 6), torch.randn(5, 8)
    assert torch.equal(module(output.clone(), x), output)
    assert module.scale == 2.0 and module.rows.tolist() == [0, 1, 7] and module.columns.tolist() == [0, 1, 5]
    assert sum(part.numel() for part in module.parameters()) == 4 * (6 + 8) + 3
    assert 0.5 * SPREAD < float(module.down.detach().std()) < 1.5 * SPREAD
    again = LowRankSparse((8, 6), 4, 8, torch.tensor([0, 7, 47]), torch.Generator().manual_seed(0))
    assert torch.equal(module.down, again.down)
    again.load_state_dict(module.state_dict())


@pytest.mark.parametrize(
    "rank,alpha,name",
    [
        (7, 8, "lora_r"),
        (0, 8, "lora_r"),
        (2.0, 8, "lora_r"),
        (2, 0, "lora_alpha"),
        (2, math.nan, "lora_alpha"),
    ],
)
def test_ranks_and_scales_that_cannot_be(rank, alpha, name):
    with pytest.raises(OptionError) as caught:
        LowRankSparse((8, 6), rank, alpha)
    assert caught.value.name == name


@pytest.mark.parametrize("seed", range(5))
def test_the_two_merges(seed):
    down, up, rows, columns, values = (part.detach() for part in parts(seed=seed))
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(6, 5, generator=generator) < 0.7
    matrix = Matrix(weight, down, up, rows * 5 + columns, values, 1.25)
    change = 1.25 * dense(down, up, rows, columns, values)
    packed, before = PackedMask.of(mask), weight.clone()
    torch.testing.assert_close(merged_weight(matrix), weight + change)
    torch.testing.assert_close(merged_weight(matrix, packed), weight * mask + change)
    sparse = merged_weight(matrix, packed, masked=True)
    torch.testing.assert_close(sparse, (weight + change) * mask)
    assert not sparse[~mask].any() and torch.equal(weight, before)
    assert (
        merged_weight(Matrix(weight.float(), *[matrix.down, matrix.up], rows, values, 1.0)).dtype
        == torch.float32
    )


@pytest.mark.parametrize("sizes", [(5, 5), (7, 5), (4, 6)])
def test_a_compiled_model_has_the_gradients_of_the_plain_one(sizes):
    """What is before the update learns, too: its gradient goes through the frozen matrix and its bias."""
    torch.manual_seed(0)
    first, frozen = torch.nn.Linear(sizes[1], sizes[1]), torch.nn.Linear(sizes[1], sizes[0])
    update = LowRankSparse(sizes, 2, 4.0, torch.arange(3))
    with torch.no_grad():
        update.up.normal_()
        update.values.normal_()

    def loss(x):
        inner = first(x)
        return update(frozen(inner), inner).square().sum()

    x, found = torch.randn(3, 4, sizes[1]), []
    for run in (loss, torch.compile(loss, backend="aot_eager")):
        first.zero_grad()
        update.zero_grad()
        run(x).backward()
        found.append([parameter.grad.clone() for parameter in (*first.parameters(), *update.parameters())])
    torch.testing.assert_close(found[1], found[0])


def test_the_output_of_the_frozen_matrix_is_left_as_it_was():
    tables = parts()
    output, x = torch.zeros(7, 6, dtype=torch.float64), torch.ones(7, 5, dtype=torch.float64)
    assert bool(add_update(output, x, *tables, 2.0).any()) and not bool(output.any())


def test_a_module_holds_an_update_as_it_stands():
    """Of a matrix that was cut below its rank, too."""
    generator = torch.Generator().manual_seed(0)
    for rows in (6, 2):
        down, up = torch.randn(4, 5, generator=generator), torch.randn(rows, 4, generator=generator)
        positions = torch.arange(1, 5 * rows, 3)
        update = Update(down, up, positions, torch.randn(len(positions), generator=generator), 1.5)
        module = LowRankSparse.of(update)
        again = module.as_update()
        for part in ("down", "up", "positions", "values"):
            assert torch.equal(getattr(again, part), getattr(update, part))
        x = torch.randn(3, 5, generator=generator)
        expected = 1.5 * x @ dense(down, up, positions // 5, positions % 5, update.values).T
        torch.testing.assert_close(module(torch.zeros(3, rows), x), expected)
