"""Cutting a diff down to an exact number of positions."""

from __future__ import annotations

import pytest
import torch
from diff_models import HEAD, tiny
from diff_packs import diff_of_dense

from dsp_plugin.diffs.packs.layers import frozen_names, layer_numbers, penalties_by_layer
from dsp_plugin.diffs.projection import Difference, count_of, project
from dsp_plugin.diffs.sparse import SparseDiff
from dsp_plugin.diffs.training.vector import DiffVector


def by_sorting(deltas, count):
    """The definition: a stable sort of all magnitudes, largest first."""
    flat = torch.cat([delta.reshape(-1) for delta in deltas.values()])
    kept = torch.zeros_like(flat)
    chosen = torch.sort(flat.abs(), descending=True, stable=True).indices[:count]
    kept[chosen] = 1
    return dict(zip(deltas, kept.split([delta.numel() for delta in deltas.values()])))


@pytest.mark.parametrize("ties", [False, True])
def test_the_largest_are_kept_in_exactly_the_number_asked_for(ties):
    generator = torch.Generator().manual_seed(1)
    shapes = {"a": (7, 5), "b": (3,), "c": (40,)}
    deltas = {name: torch.randn(shape, generator=generator) * 1e-3 for name, shape in shapes.items()}
    if ties:  # many equal magnitudes of both signs, and zeros
        deltas = {name: (delta * 1500).round() / 1500 for name, delta in deltas.items()}
    counts = [1, 2, 17, 40, 78]
    for count, diff in zip(counts, project(deltas, counts)):
        assert diff.count == count and diff.total == 78
        for name, kept in by_sorting(deltas, count).items():
            positions, values = diff.entries.get(
                name, (torch.tensor([], dtype=torch.int64), torch.tensor([]))
            )
            assert torch.equal(positions, kept.nonzero().squeeze(1)), (name, count)
            assert torch.equal(values, deltas[name].reshape(-1)[positions])


def test_values_that_only_float64_tells_apart():
    generator = torch.Generator().manual_seed(1)
    close = 1 + 1e-12 * torch.randperm(30, generator=generator).double()
    deltas = {
        "a": -close.view(5, 6),
        "b": torch.tensor([0.0, 1e-300, -1e-310, 0.0], dtype=torch.float64),
        "c": torch.ones(2),
    }
    for count, diff in zip([1, 7, 31, 33, 34], project(deltas, [1, 7, 31, 33, 34])):
        for name, kept in by_sorting({name: delta.double() for name, delta in deltas.items()}, count).items():
            positions = diff.entries[name][0] if name in diff.entries else torch.tensor([], dtype=torch.int64)
            assert torch.equal(positions, kept.nonzero().squeeze(1)), (name, count)
    with pytest.raises(ValueError, match="'a' holds values that are not finite"):
        project({"b": torch.ones(2), "a": torch.tensor([1.0, float("inf")], dtype=torch.float64)}, [1])


def test_a_count_by_layer_shares_out_exactly():
    generator = torch.Generator().manual_seed(1)
    deltas = {
        name: torch.randn(size, generator=generator) for name, size in {"x": 10, "y": 21, "z": 5}.items()
    }
    (diff,) = project(deltas, [11], layers={"x": 0, "y": 1, "z": 0})  # 15 and 21 of 36: 4.58 and 6.42
    assert diff.count == 11 and diff.entries["y"][0].numel() == 6
    (diff,) = project(deltas, [11], layers={"x": 1, "y": 0, "z": 1})  # not to the first in order
    assert diff.count == 11 and diff.entries["y"][0].numel() == 6
    both = {name: deltas[name] for name in ("x", "z")}
    for name, kept in by_sorting(both, 5).items():
        assert torch.equal(diff.entries[name][0], kept.nonzero().squeeze(1))


def test_zeros_fill_up_with_a_warning(caplog):
    (diff,) = project({"a": torch.tensor([0.0, 0.0, 2.0, 0.0])}, [3])
    assert diff.entries["a"][0].tolist() == [0, 1, 2]
    assert "2 change nothing" in caplog.text


def test_counts_and_densities():
    assert count_of(0.005, 108_310_272) == 541_551  # BERT-base's body
    assert count_of(0.001, 1000) == 1 and count_of(1.0, 7) == 7 and count_of(1e-9, 7) == 1
    for density in (0.0, -1.0, 1.1):
        with pytest.raises(ValueError, match=r"\(0, 1\]"):
            count_of(density, 10)
    for count in (0, 5):
        with pytest.raises(ValueError, match="between 1 and 4"):
            project({"a": torch.ones(4)}, [count])
    with pytest.raises(ValueError, match="'a' holds values that are not finite"):
        project({"a": torch.tensor([1.0, float("nan")])}, [1])


def test_a_trained_vector_projects_to_its_own_deterministic_or_sampled_diff():
    vector = DiffVector(tiny(), task_head=HEAD)
    vector.w.copy_(torch.linspace(-1, 1, 96))
    vector.alpha.copy_(torch.linspace(2, -2, 96))
    for step in (None, 3):
        deltas = vector.deltas(step)
        (diff,) = project(deltas, [9])
        assert {name for name in diff.entries} <= set(vector.layout.names) and diff.total == 96
        flat = torch.cat([delta.reshape(-1) for delta in deltas.values()])
        assert diff.count == 9
        kept = torch.cat([values.abs() for _, values in diff.entries.values()])
        assert torch.equal(kept.sort().values, flat.abs().sort().values[-9:])


def test_the_non_adaptive_diff_is_a_difference():
    base = {"encoder.a": torch.ones(3), "encoder.b": torch.zeros(2)}
    finetuned = {"bert.encoder.a": torch.tensor([1.0, 1.5, 1.0]), "bert.encoder.b": torch.tensor([0.0, -2.0])}
    deltas = Difference(finetuned, base, list(finetuned))
    (diff,) = project(deltas, [2])
    assert [(name, at.tolist(), values.tolist()) for name, (at, values) in diff.entries.items()] == [
        ("bert.encoder.a", [1], [0.5]),
        ("bert.encoder.b", [1], [-2.0]),
    ]
    with pytest.raises(ValueError, match="wrong base"):
        Difference(finetuned, {"c": torch.ones(3)}, list(finetuned))


def test_a_sparse_diff_holds_together():
    diff = diff_of_dense({"a": torch.tensor([[0.0, 1.0], [2.0, 0.0]]), "b": torch.zeros(3)})
    assert diff.count == 2 and diff.total == 7 and diff.density() == 2 / 7 and list(diff.entries) == ["a"]
    assert torch.equal(dict(diff.dense())["a"], torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
    one = torch.ones(1)
    for positions, values, shape, message in [
        ([0, 0], torch.ones(2), (4,), "rise"),
        ([4], one, (4,), "leave"),
        ([-1], one, (4,), "leave"),
        ([0], torch.ones(2), (4,), "floating"),
        ([0], torch.ones(1, dtype=torch.int64), (4,), "floating"),
    ]:
        with pytest.raises(ValueError, match=message):
            SparseDiff({"a": (torch.tensor(positions), values)}, {"a": shape})
    with pytest.raises(ValueError, match="no shape"):
        SparseDiff({"a": (torch.tensor([0]), one)})
    with pytest.raises(ValueError, match="cannot be a share"):
        diff.density(1)


def test_layers_by_name():
    bert = [
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.0.attention.self.query.weight",
        "bert.encoder.layer.10.output.dense.bias",
        "bert.encoder.layer.2.output.dense.bias",
        "bert.pooler.dense.weight",
    ]
    layers, count = layer_numbers(bert)
    assert count == 3 and list(layers.values()) == [0, 1, 3, 2, 4]
    fairseq = [
        "encoder.embed_tokens.weight",
        "encoder.layers.0.fc1.weight",
        "encoder.layers.1.fc1.weight",
        "decoder.embed_tokens.weight",
        "decoder.layers.0.fc1.weight",
        "decoder.output_projection.weight",
    ]
    assert list(layer_numbers(fairseq)[0].values()) == [0, 1, 2, 0, 3, 4]
    assert (
        frozen_names(bert, -1) == []
        and frozen_names(bert, 0) == bert[:1]
        and frozen_names(bert, 2) == [*bert[:2], bert[3]]
    )
    assert penalties_by_layer(bert, [5, 1, 2, 3, 4]) == dict(zip(bert, [5.0, 1.0, 3.0, 2.0, 4.0]))
    with pytest.raises(ValueError, match=r"number of layers \(3\), got 4"):
        frozen_names(bert, 4)
    with pytest.raises(ValueError, match="needs 5 numbers"):
        penalties_by_layer(bert, [1.0])
