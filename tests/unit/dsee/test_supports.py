"""Supports of S2: as many entries as asked for, whatever the matrix; grebsmo against the published steps."""

from __future__ import annotations

import pytest
import torch

from dsp_plugin.dsee.ranking import largest
from dsp_plugin.dsee.supports import METHODS, find_support, largest_rank
from dsp_plugin.options.errors import OptionError

METHOD_NAMES = list(METHODS)
SHAPES = [(1, 1), (1, 9), (9, 1), (2, 3), (8, 8), (20, 7), (7, 20), (48, 33)]


def plain_support(weight: torch.Tensor, count: int, seed: int) -> set[int]:
    """The steps of the paper's program one by one, with a full QR, and the rank held below the width."""
    w = weight.double()
    most = min(496, 2 * min(w.shape) // 3)
    v = torch.randn(1, w.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for _ in range(100):
        s = torch.zeros_like(w)
        for _ in range(2):
            u, _ = torch.linalg.qr((w - s) @ v.T)
            v = u.T @ (w - s)
            s = w - u @ v
            s[s.abs() < 0.01] = 0
        e = w - u @ v - s
        _, r = torch.linalg.qr(e)
        v = torch.cat([v, r[: max(0, min(5, most - len(v)))]])
    order = sorted(range(w.numel()), key=lambda place: (-abs(float(s.flatten()[place])), place))
    return set(order[:count])


@pytest.mark.parametrize("shape", [(12, 12), (30, 20), (20, 30), (60, 60)])
@pytest.mark.parametrize("seed", [0, 7])
def test_grebsmo_is_the_published_steps(shape, seed):
    generator = torch.Generator().manual_seed(shape[0] + seed)
    # a part of low rank, noise, and a few large entries
    weight = torch.randn(shape[0], 3, generator=generator) @ torch.randn(3, shape[1], generator=generator)
    weight += 0.05 * torch.randn(shape, generator=generator)
    spikes = torch.randperm(weight.numel(), generator=generator)[:6]
    weight.view(-1)[spikes] += 5.0
    found = set(find_support(weight, 10, "grebsmo", seed).tolist())
    assert found == plain_support(weight, 10, seed)


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["usual", "tiny", "zero", "equal", "low rank"])
def test_a_support_has_exactly_so_many_entries(method, shape, kind):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(shape, generator=generator)
    if kind == "low rank":
        weight = weight[:, :1] @ weight[:1]
    weight = {"tiny": weight * 1e-30, "zero": weight * 0, "equal": torch.ones(shape)}.get(kind, weight)
    size = weight.numel()
    for count in sorted({0, 1, size // 2, size}):
        found = find_support(weight, count, method, seed=5)
        assert found.dtype == torch.int64 and len(found) == count
        assert len(set(found.tolist())) == count and found.tolist() == sorted(found.tolist())
        assert all(0 <= place < size for place in found.tolist())
        assert torch.equal(found, find_support(weight, count, method, seed=5))


def test_the_rank_stays_below_the_width_and_reaches_the_published_one():
    assert all(largest_rank(m, n) < min(m, n) for m in range(1, 40) for n in range(1, 40))
    assert largest_rank(768, 768) == largest_rank(3072, 1024) == 496
    assert largest_rank(384, 384) == 256


def test_omp_takes_the_largest_and_of_equal_ones_the_first():
    weight = torch.tensor([[0.0, -3.0, 1.0], [1.0, 2.0, -1.0]])
    assert find_support(weight, 3, "omp").tolist() == [1, 2, 4]
    assert find_support(weight, 5, "omp").tolist() == [1, 2, 3, 4, 5]


def test_seeds_choose_and_leave_the_global_generator_alone():
    weight = torch.randn(30, 30, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    one, two = (find_support(weight, 50, "rp", seed) for seed in (1, 2))
    find_support(weight, 50, "grebsmo", 1)
    assert not torch.equal(one, two) and torch.equal(torch.get_rng_state(), before)


def test_random_supports_cover_a_matrix_evenly():
    counts = torch.zeros(40)
    for seed in range(2000):
        counts[find_support(torch.zeros(5, 8), 10, "rp", seed)] += 1
    assert counts.min() > 500 * 0.8 and counts.max() < 500 * 1.2


@pytest.mark.parametrize(
    "change,name",
    [
        (dict(num_sparse=13), "num_sparse"),
        (dict(num_sparse=-1), "num_sparse"),
        (dict(num_sparse=2.0), "num_sparse"),
        (dict(num_sparse=True), "num_sparse"),
        (dict(method="lasso"), "sparse_method"),
    ],
)
def test_what_cannot_be_is_refused_by_its_option(change, name):
    with pytest.raises(OptionError) as caught:
        find_support(torch.ones(3, 4), **{"num_sparse": 2, **change})
    assert caught.value.name == name


def test_matrices_that_have_no_support_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        find_support(torch.tensor([[1.0, float("nan")]]), 1, "omp")
    with pytest.raises(ValueError, match="shape"):
        find_support(torch.ones(4), 1, "omp")


def test_largest_against_a_sort():
    generator = torch.Generator().manual_seed(2)
    for trial in range(200):
        size = int(torch.randint(1, 30, (), generator=generator))
        scores = torch.randint(-3, 4, (size,), generator=generator).float()  # many equal ones
        scores[torch.rand(size, generator=generator) < 0.1] = float("inf")
        count = int(torch.randint(0, size + 1, (), generator=generator))
        order = sorted(range(size), key=lambda place: (-float(scores[place]), place))
        assert largest(scores, count).tolist() == sorted(order[:count]), trial
    with pytest.raises(ValueError, match="not a number"):
        largest(torch.tensor([1.0, float("nan")]), 1)
    with pytest.raises(ValueError, match="cannot be chosen"):
        largest(torch.ones(2), 3)
