"""What tasks add to their rows of a batch, beside dense sums; compiled and by torch."""

from __future__ import annotations

import pytest
import torch
from diff_packs import SmallModel, random_pack, take_way

from dsp_plugin.diffs.packs.undo import Change
from dsp_plugin.diffs.serving.bank import DiffBank
from dsp_plugin.diffs.serving.row_product import LinearDiff, put_vectors
from dsp_plugin.diffs.serving.row_tasks import RowTasks


def change(shape, density: float, seed: int, dtype=torch.float64) -> tuple:
    """A change of random positions, and the dense difference."""
    generator = torch.Generator().manual_seed(seed)
    positions = (torch.rand(shape, generator=generator).reshape(-1) < density).nonzero().squeeze(1)
    old, new = (
        torch.randn(len(positions), generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)
    )
    dense = torch.zeros(torch.Size(shape).numel(), dtype=torch.float64)
    dense[positions] = new.double() - old.double()
    return Change(positions, old, new), dense.view(shape)


ROWS = [slice(0, 5), slice(1, 2), slice(2, 4), torch.tensor([3, 0]), torch.tensor([4])]


@pytest.mark.parametrize("way", ["sparse", "compiled"])
@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("inner", [(), (1,), (3,), (8,), (2, 5)], ids=str)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("changed", ["weight", "bias", "both", "nothing"])
def test_a_linear_layers_changes_are_added_to_its_rows_alone(
    way, rows, inner, transposed, changed, monkeypatch
):
    take_way(way, monkeypatch)
    inputs, outputs = 7, 11
    weight, dense = change(
        (inputs, outputs) if transposed else (outputs, inputs), 0.0 if changed == "nothing" else 0.3, 1
    )
    bias, added = change((outputs,), 0.4, 2)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, *inner, inputs, generator=generator, dtype=torch.float64)
    y = torch.randn(5, *inner, outputs, generator=generator, dtype=torch.float64)
    expected = y.clone()
    if changed != "bias":
        expected[rows] += x[rows] @ (dense if transposed else dense.T)
    if changed in ("bias", "both"):
        expected[rows] += added
    weight, bias = (None if changed == "bias" else weight), (bias if changed in ("bias", "both") else None)
    diff = LinearDiff(weight, bias, (inputs, outputs) if transposed else (outputs, inputs), transposed)
    diff.add_to(y, rows, x)
    assert torch.allclose(y, expected, atol=1e-12)
    # memory that does not lie in the order of rows
    y, x = (tensor.transpose(0, -1).contiguous().transpose(0, -1) for tensor in (y, x))
    diff.add_to(y, rows, x)
    diff.add_to(expected, torch.arange(5)[rows], x)
    assert torch.allclose(y, expected, atol=1e-12)


@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.1), (torch.float16, 0.02)]
)
@pytest.mark.parametrize("way", ["sparse", "compiled"])
def test_in_other_dtypes(dtype, tolerance, way, monkeypatch):
    take_way(way, monkeypatch)
    weight, dense = change((16, 24), 0.1, 1, dtype)
    x, y = torch.randn(3, 9, 24).to(dtype), torch.zeros(3, 9, 16, dtype=dtype)
    LinearDiff(weight, None, (16, 24), False).add_to(y, slice(1, 3), x)
    assert not y[0].any()
    assert torch.allclose(y[1:].double(), x[1:].double() @ dense.T, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("way", ["sparse", "compiled"])
@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("kind", [torch.int64, torch.int32])
def test_an_embeddings_changes_are_put_into_its_rows_alone(way, rows, density, kind, monkeypatch):
    take_way(way, monkeypatch)
    changes, _ = change((13, 6), density, 4)
    base = torch.randn(13, 6, dtype=torch.float64)
    after = base.clone()
    after.view(-1)[changes.positions] = changes.new
    ids = torch.cat([torch.tensor([[0, 12, 12, 5]]), torch.randint(13, (4, 4))]).to(kind)
    y = base[ids.long()]
    expected = y.clone()
    expected[rows] = after[ids[rows].long()]
    put_vectors(y, rows, ids, changes)
    assert torch.equal(y, expected)


@pytest.mark.parametrize("density, whole", [(0.01, False), (0.5, True)])
def test_with_many_tokens_a_compiled_loop_serves_few_changes_and_whole_products_serve_many(
    density, whole, monkeypatch
):
    take_way("compiled", monkeypatch)
    monkeypatch.undo()
    bank = DiffBank(SmallModel())
    for seed, name in enumerate("ab"):
        bank.add(name, random_pack(bank.model, seed, density=density))
    seen, stock = [], RowTasks._whole
    monkeypatch.setattr(
        RowTasks, "_whole", lambda self, name, *rest: (seen.append(name), stock(self, name, *rest))[1]
    )
    bank.run(["a", "b"], torch.randint(40, (2, 100)))
    assert ("body.0" in seen) == whole and "classifier" in seen
