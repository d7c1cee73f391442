"""S1: score modes against a dense float64 reference, exact counts, bits, and a schedule that only grows."""

from __future__ import annotations

import math

import pytest
import torch

from dsp_plugin.dsee.scores import HEAD_MODES, MODES, Matrix, head_scores, weight_scores
from dsp_plugin.dsee.weight_masks import PackedMask, count_to_prune, cubic_ratio, prune_group
from dsp_plugin.options.errors import OptionError


def random_matrix(seed: int, rows: int = 6, columns: int = 5, rank: int = 2, entries: int = 7) -> Matrix:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    positions = torch.randperm(rows * columns, generator=generator)[:entries].sort().values
    weight, down, up = draw(rows, columns), draw(rank, columns), draw(rows, rank)
    return Matrix(weight, down, up, positions, draw(entries), scale=2.5)


def dense_parts(matrix: Matrix) -> tuple[torch.Tensor, torch.Tensor]:
    sparse = torch.zeros(matrix.weight.numel(), dtype=torch.float64)
    for place, value in zip(matrix.positions.tolist(), matrix.values.tolist()):
        sparse[place] = value
    low_rank = torch.einsum("mr,rn->mn", matrix.up, matrix.down)
    return low_rank, sparse.view(matrix.weight.shape)


@pytest.mark.parametrize("seed", range(3))
def test_score_modes(seed):
    matrix = random_matrix(seed)
    ba, s = dense_parts(matrix)
    w, scale = matrix.weight, 2.5
    expected = {
        "W": w.abs(),
        "AB": (scale * ba).abs(),
        "ABS": (scale * (ba + s)).abs(),
        "WAB": (w + scale * ba).abs(),
        "WABS": (w + scale * (ba + s)).abs(),
        "NAB": 1 / (scale * ba).abs(),
        "NABS": 1 / (scale * (ba + s)).abs(),
    }
    before = [part.clone() for part in (matrix.weight, matrix.down, matrix.up, matrix.values)]
    for mode, scores in expected.items():
        found = weight_scores(matrix, mode, torch.Generator().manual_seed(0))
        torch.testing.assert_close(found, scores, rtol=1e-10, atol=1e-12)
    one, two = (weight_scores(matrix, "random", torch.Generator().manual_seed(n)) for n in (1, 2))
    assert one.shape == w.shape and not torch.equal(one, two)
    assert {*expected, "random"} == set(MODES)
    for part, copy in zip((matrix.weight, matrix.down, matrix.up, matrix.values), before):
        assert torch.equal(part, copy)
    with pytest.raises(OptionError, match="prune_mode"):
        weight_scores(matrix, "abs", torch.Generator())


@pytest.mark.parametrize("mode", HEAD_MODES)
def test_head_scores(mode):
    query, value = random_matrix(1, rows=6), random_matrix(2, rows=6)
    expected = []
    for head in range(3):
        rows, total = slice(2 * head, 2 * head + 2), 0.0
        for part in (query, value):
            ba, s = dense_parts(part)
            total += (ba + s)[rows].abs().sum()
            if mode == "WABS":
                total += part.weight[rows].abs().sum()
        expected.append(float(total))
    assert head_scores(query, value, 3, mode).tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match="rows"):
        head_scores(query, value, 4, mode)
    with pytest.raises(OptionError, match="prune_mode"):
        head_scores(query, value, 3, "AB")


def test_a_group_is_ranked_as_a_whole_and_counts_are_exact():
    generator = torch.Generator().manual_seed(0)
    for trial in range(150):
        shapes = [tuple(torch.randint(1, 5, (2,), generator=generator).tolist()) for _ in range(3)]
        scores = {
            str(n): torch.randint(0, 4, shape, generator=generator).double() for n, shape in enumerate(shapes)
        }
        scores["0"][0, 0] = math.inf
        total = sum(part.numel() for part in scores.values())
        ratio = float(torch.rand((), generator=generator))
        masks = prune_group(scores, ratio)
        gone = sum(int((~mask).sum()) for mask in masks.values())
        assert gone == count_to_prune(ratio, total), trial
        lost = torch.cat([scores[key][~masks[key]] for key in scores])
        left = torch.cat([scores[key][masks[key]] for key in scores])
        assert not len(lost) or not len(left) or lost.max() <= left.min()
        # growing on: nothing comes back
        later = prune_group(
            {key: torch.rand(part.shape, generator=generator) for key, part in scores.items()},
            min(0.999, ratio + 0.2),
            {key: ~mask for key, mask in masks.items()},
        )
        assert all(not bool((later[key] & ~masks[key]).any()) for key in scores)
        gone = sum(int((~mask).sum()) for mask in later.values())
        assert gone == count_to_prune(min(0.999, ratio + 0.2), total)


def test_the_share_is_exact_where_single_precision_would_not_be():
    assert count_to_prune(0.2, 21_233_664) == 4_246_733
    assert [count_to_prune(ratio, 10) for ratio in (0, 0.04, 0.05, 0.2, 0.99)] == [0, 0, 1, 2, 10]


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.0, 1.5, math.nan, math.inf, "0.2", True, None])
def test_a_ratio_outside_is_refused(ratio):
    with pytest.raises(OptionError) as caught:
        prune_group({"w": torch.ones(3)}, ratio, name="ad_pruning_ratio")
    assert caught.value.name == "ad_pruning_ratio"


def test_what_is_pruned_does_not_come_back():
    gone = {"w": torch.tensor([True, True, False, False])}
    with pytest.raises(OptionError, match="pruned already"):
        prune_group({"w": torch.arange(4.0)}, 0.25, gone)
    assert prune_group({"w": torch.arange(4.0)}, 0.5, gone)["w"].tolist() == [False, False, True, True]
    with pytest.raises(ValueError, match="not a number"):
        prune_group({"w": torch.tensor([1.0, math.nan])}, 0.5)


@pytest.mark.parametrize("shape", [(1,), (3, 3), (2, 4), (5, 7), (0, 4), (16, 9)])
def test_bits_are_the_mask(shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.6
    packed = PackedMask.of(mask)
    assert torch.equal(packed.mask(), mask) and packed.kept == int(mask.sum())
    assert packed.bits.numel() == (mask.numel() + 7) // 8
    weight = torch.randn(shape)
    before = weight.clone()
    packed.apply_(weight)
    assert torch.equal(weight[mask], before[mask]) and not weight[~mask].any()
    if mask.dim() == 2 and mask.numel():
        keep = torch.arange(shape[0]) % 2 == 0
        assert torch.equal(packed.select(0, keep).mask(), mask[keep])
    with pytest.raises(ValueError, match="bits"):
        PackedMask(torch.zeros(len(packed.bits) + 1, dtype=torch.uint8), shape)


def test_bits_behind_the_last_weight_are_refused():
    with pytest.raises(ValueError, match="behind"):
        PackedMask(torch.tensor([255], dtype=torch.uint8), (7,))


def test_the_schedule_is_cubic_and_only_rises():
    shares = [cubic_ratio(update, 10, 110, 0.5) for update in range(0, 130)]
    assert shares[:11] == [0.0] * 11 and shares[110:] == [0.5] * 20
    assert shares == sorted(shares)
    assert shares[60] == pytest.approx(0.5 - 0.5 * 0.5**3)
    assert cubic_ratio(60, 10, 110, 0.5, start=0.1) == pytest.approx(0.5 - 0.4 * 0.125)
    assert cubic_ratio(0, 0, 0, 0.3) == 0.3
    with pytest.raises(OptionError, match="less"):
        cubic_ratio(0, 0, 1, 0.1, start=0.2)
    with pytest.raises(ValueError, match="begins"):
        cubic_ratio(0, 2, 1, 0.1)
