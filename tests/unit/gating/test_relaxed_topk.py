"""The relaxed, the hard and the straight-through top-K, against formulas written a second time."""

from __future__ import annotations

import importlib
import itertools
import math

import pytest
import torch

from dsp_plugin.gating import gumbel_noise, hard_topk, relaxed_topk, straight_through_topk

# the package exports a function of that name
module = importlib.import_module("dsp_plugin.gating.sampling.relaxed_topk")
EPS = 2.2250738585072014e-308

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def plain_topk(r: list[float], k: int, temperature: float) -> list[float]:
    """The published formula, in plain Python."""
    z = [0.0] * len(r)
    for _ in range(k):
        top = max(r)
        e = [math.exp((x - top) / temperature) for x in r]
        p = [x / sum(e) for x in e]
        z = [a + b for a, b in zip(z, p)]
        r = [x + math.log(max(1.0 - y, EPS)) for x, y in zip(r, p)]
    return z


def differentiable_topk(
    scores: torch.Tensor, k: int, temperature: float, noise: torch.Tensor
) -> torch.Tensor:
    """The same with torch's own autograd through every round."""
    r = scores.double() + noise
    z = torch.zeros_like(r)
    for _ in range(k):
        p = torch.softmax(r / temperature, dim=0)
        z = z + p
        r = r + torch.log(torch.clamp(1.0 - p, min=EPS))
    return z


def draw(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores as DSP draws them, Gumbel noise, and a gradient of the gates: three float64 [n]."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(n, dtype=torch.float64, generator=generator) - 0.5
    noise = gumbel_noise((n,), device="cpu", generator=generator)
    return scores, noise, torch.randn(n, dtype=torch.float64, generator=generator)


def gates_and_grad(function, scores, k, temperature, noise, grad):
    scores = scores.clone().requires_grad_()
    gates = function(scores, k, temperature, noise)
    gates.backward(grad)
    return gates.detach(), scores.grad


# Gumbel noise


def test_gumbel_noise_has_the_gumbel_distribution():
    noise = gumbel_noise((200, 500), device="cpu", generator=torch.Generator().manual_seed(1))
    assert noise.shape == (200, 500) and noise.dtype == torch.float64
    assert noise.mean().item() == pytest.approx(0.5772156649, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.04)
    # P(noise < 0) = exp(-exp(0))
    assert (noise < 0).double().mean().item() == pytest.approx(math.exp(-1), abs=0.01)


def test_gumbel_noise_follows_its_generator():
    first, second = (
        gumbel_noise((9,), device="cpu", generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("u", [0.0, 1.0, 1.0 - 2.0**-53])
def test_gumbel_noise_is_finite_at_the_ends_of_the_unit_interval(monkeypatch, u):
    monkeypatch.setattr(torch, "rand", lambda *shape, **kw: torch.full(shape, u, dtype=torch.float64))
    assert torch.isfinite(gumbel_noise((2,), device="cpu")).all()


# Relaxed top-K: values


@pytest.mark.parametrize("temperature", [1e-8, 1e-4, 0.1, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("n,k", [(1, 1), (5, 0), (5, 2), (5, 5), (72, 4), (72, 68), (72, 72)])
def test_gates_are_the_published_formula(n, k, temperature):
    scores, noise, _ = draw(n, seed=n + k)
    gates = relaxed_topk(scores, k, temperature, noise)
    expected = plain_topk((scores + noise).tolist(), k, temperature)
    assert gates.dtype == torch.float64 and gates.shape == (n,)
    # chaotic in the scores where T is small but not tiny: the last digit of a score grows over the rounds
    tolerance = 1e-12 if temperature >= 0.1 or temperature == 1e-8 else 1e-5
    assert gates.tolist() == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("spread", ["one", "fifty", "ties", "all equal"])
@pytest.mark.parametrize("temperature", [1e-8, 1e-6, 1e-4, 1e-2, 0.1, 1.0, 10.0, 1000.0])
def test_gates_sum_to_k_and_all_is_finite(temperature, spread):
    scores, noise, grad = draw(24, seed=5)
    values = {
        "one": scores + noise,
        "fifty": 100 * scores,
        "ties": (10 * scores).round() / 10,
        "all equal": torch.zeros(24, dtype=torch.float64),
    }[spread]
    for k in range(25):
        gates, slope = gates_and_grad(relaxed_topk, values, k, temperature, None, grad)
        assert gates.sum().item() == pytest.approx(k, abs=1e-9)
        assert gates.min() >= 0
        assert torch.isfinite(slope).all()


@pytest.mark.parametrize("temperature", [1e-8, 0.3, 1000.0])
def test_equal_scores_share_the_budget_equally(temperature):
    assert relaxed_topk(torch.zeros(8), 3, temperature).tolist() == pytest.approx([3 / 8] * 8, abs=1e-12)


def test_the_limit_of_zero_temperature_is_the_hard_top_k():
    scores = draw(30, seed=2)[0]
    for k in range(31):
        gates = relaxed_topk(scores, k, 1e-8)
        assert torch.allclose(gates, hard_topk(scores, k).double(), rtol=0, atol=1e-12)


def test_cold_gates_with_gumbel_noise_sample_without_replacement():
    weights = [math.exp(w) for w in (0.0, 0.7, -0.4, 1.1)]
    # of a set: over its orders, each head drawn in proportion to its weight among those left
    probability = {}
    for order in itertools.permutations(range(4), 2):
        left, chance = sum(weights), 1.0
        for head in order:
            chance *= weights[head] / left
            left -= weights[head]
        probability[frozenset(order)] = probability.get(frozenset(order), 0.0) + chance
    draws = 4000
    noise = gumbel_noise((draws, 4), device="cpu", generator=torch.Generator().manual_seed(0))
    scores = torch.tensor([0.0, 0.7, -0.4, 1.1])
    count = dict.fromkeys(probability, 0)
    for row in noise:
        gates = relaxed_topk(scores, 2, 1e-7, row)
        count[frozenset(gates.topk(2).indices.tolist())] += 1
    for heads, chance in probability.items():
        assert abs(count[heads] / draws - chance) < 4.5 * math.sqrt(chance * (1 - chance) / draws)


# Relaxed top-K: gradients


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize(
    "n,k", [(1, 1), (6, 0), (6, 1), (6, 3), (6, 6), (72, 4), (72, 36), (72, 68), (72, 72)]
)
def test_gradient_is_autograds_through_the_rounds(n, k, temperature):
    scores, noise, grad = draw(n, seed=3 * n + k)
    gates, slope = gates_and_grad(relaxed_topk, scores, k, temperature, noise, grad)
    if k == 0:
        assert not slope.any()
        return
    expected_gates, expected = gates_and_grad(differentiable_topk, scores, k, temperature, noise, grad)
    assert torch.allclose(gates, expected_gates, rtol=0, atol=1e-11)
    assert (slope - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize("k,temperature", [(1, 0.3), (3, 0.5), (5, 1.0), (7, 1.0), (4, 20.0)])
def test_gradcheck(k, temperature):
    scores, noise, _ = draw(7, seed=11)
    assert torch.autograd.gradcheck(lambda w: relaxed_topk(w, k, temperature, noise), scores.requires_grad_())


def test_gradient_where_a_probability_is_exactly_one():
    # the first head is drawn with p = 1, so max(1 - p, eps) is flat and nothing flows through the logarithm
    scores = torch.tensor([90.0, 0.0, -0.5, -1.0], dtype=torch.float64)
    grad = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    ours = gates_and_grad(relaxed_topk, scores, 3, 1.0, torch.zeros(4), grad)
    autograds = gates_and_grad(differentiable_topk, scores, 3, 1.0, torch.zeros(4), grad)
    assert torch.allclose(ours[0], autograds[0], rtol=0, atol=1e-14)
    assert torch.allclose(ours[1], autograds[1], rtol=0, atol=1e-13)
    assert ours[1].abs().max() > 0.01


def test_a_chaotic_gradient_is_bounded():
    grad = draw(72, seed=1)[2]
    ties = torch.zeros(72, dtype=torch.float64)
    slope = gates_and_grad(relaxed_topk, ties, 68, 1e-8, None, grad)[1]
    bound = module.MAX_GAIN * grad.norm()
    assert 0.5 * bound < slope.norm() <= bound * (1 + 1e-12)
    again = gates_and_grad(relaxed_topk, ties, 68, 1e-8, None, grad * 1024)[1]
    assert torch.allclose(again, slope * 1024, rtol=1e-12)  # a loss scale passes through


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gradient_comes_back_in_the_type_of_the_scores(dtype):
    scores, noise, grad = draw(12, seed=4)
    scores = scores.to(dtype)
    gates, slope = gates_and_grad(relaxed_topk, scores, 5, 0.5, noise, grad)
    assert gates.dtype == torch.float64 and slope.dtype == dtype
    expected = gates_and_grad(differentiable_topk, scores, 5, 0.5, noise, grad)
    assert torch.allclose(gates, expected[0], atol=1e-12)
    assert torch.allclose(slope, expected[1])
    cold = gates_and_grad(relaxed_topk, torch.zeros(12, dtype=dtype), 5, 1e-8, None, grad)[1]
    assert torch.isfinite(cold).all()


def test_inputs_are_left_alone_and_the_noise_is_a_constant():
    scores, noise, grad = draw(10, seed=6)
    before = scores.clone(), noise.clone(), grad.clone()
    noise.requires_grad_()
    gates_and_grad(relaxed_topk, scores, 4, 0.5, noise, grad)
    assert torch.equal(scores, before[0]) and torch.equal(noise, before[1]) and torch.equal(grad, before[2])
    assert noise.grad is None


def test_a_gradient_that_is_not_contiguous():
    scores, noise, grad = draw(10, seed=7)
    expected = gates_and_grad(relaxed_topk, scores, 4, 0.5, noise, grad)[1]
    strided = torch.stack([grad, grad], 1)[:, 0]
    assert torch.equal(gates_and_grad(relaxed_topk, scores, 4, 0.5, noise, strided)[1], expected)
    ones = gates_and_grad(relaxed_topk, scores, 4, 0.5, noise, torch.ones(()).expand(10).double())[1]
    assert ones.abs().max() < 1e-12  # the sum is K whatever the scores


# The other ways to compute the rounds


@pytest.mark.parametrize("temperature", [1e-8, 0.1, 1.0, 1000.0])
@pytest.mark.parametrize("k", [0, 4, 68, 72])
def test_the_torch_rounds_do_what_the_numpy_rounds_do(monkeypatch, k, temperature):
    for scores in (draw(72, seed=8)[0], torch.zeros(72, dtype=torch.float64)):
        _, noise, grad = draw(72, seed=9)
        noise = noise if scores.any() else None  # zeros without noise: all equal
        expected = gates_and_grad(relaxed_topk, scores, k, temperature, noise, grad)
        with monkeypatch.context() as patch:
            patch.setattr(module, "_rounds", lambda x: module._TorchRounds)
            gates, slope = gates_and_grad(relaxed_topk, scores, k, temperature, noise, grad)
        assert torch.allclose(gates, expected[0], rtol=0, atol=1e-12)
        assert (slope - expected[1]).abs().max() <= 1e-10 * expected[1].abs().max()


@needs_cuda
@pytest.mark.parametrize("temperature", [1e-8, 0.1, 1.0, 1000.0])
@pytest.mark.parametrize("n,k", [(1, 1), (5, 0), (5, 5), (72, 4), (72, 68), (144, 140), (1000, 3), (1030, 2)])
def test_the_gpu_does_what_the_cpu_does(n, k, temperature):
    scores, noise, grad = draw(n, seed=n)
    for values, added in ((scores, noise), (torch.zeros_like(scores), None)):
        expected = gates_and_grad(relaxed_topk, values, k, temperature, added, grad)
        moved = None if added is None else added.cuda()
        gates, slope = gates_and_grad(relaxed_topk, values.cuda(), k, temperature, moved, grad.cuda())
        assert gates.is_cuda and gates.dtype == torch.float64
        assert torch.allclose(gates.cpu(), expected[0], rtol=0, atol=1e-11)
        assert (slope.cpu() - expected[1]).abs().max() <= 1e-8 * expected[1].abs().max()


@needs_cuda
def test_the_gpu_breaks_ties_and_draws_noise_as_the_cpu_does():
    scores = (4 * draw(500, seed=1)[0]).round()
    for dtype in (torch.float16, torch.float32, torch.float64):
        for k in (0, 1, 77, 250, 499, 500):
            assert torch.equal(hard_topk(scores.to(dtype).cuda(), k).cpu(), hard_topk(scores, k))
    noise = gumbel_noise((100, 100), device="cuda")
    assert torch.isfinite(noise).all() and noise.mean().item() == pytest.approx(0.577, abs=0.08)


# Hard and straight-through top-K


@pytest.mark.parametrize(
    "values", [[1, 1, 1, 1, 1], [0, 2, 2, 0, 2, 1], [3, 1, 2], [-0.0, 0.0, -0.0], [5], []]
)
def test_hard_topk_keeps_exactly_k_and_breaks_ties_by_position(values):
    scores = torch.tensor(values, dtype=torch.float32)
    for k in range(len(values) + 1):
        best = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
        keep = hard_topk(scores, k)
        assert keep.dtype == torch.bool
        assert keep.tolist() == [i in best for i in range(len(values))]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_hard_topk_of_many_ties_in_every_type(dtype):
    scores = (4 * draw(300, seed=3)[0]).round().to(dtype)
    values = scores.tolist()
    order = sorted(range(300), key=lambda i: (-values[i], i))
    for k in range(301):
        assert sorted(order[:k]) == hard_topk(scores, k).nonzero().flatten().tolist()


def test_hard_topk_orders_infinities_and_refuses_nan():
    scores = torch.tensor([-math.inf, 0.0, math.inf])
    assert hard_topk(scores, 1).tolist() == [False, False, True]
    assert hard_topk(scores, 2).tolist() == [False, True, True]
    with pytest.raises(ValueError, match="NaN"):
        hard_topk(torch.tensor([0.0, math.nan]), 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_straight_through_is_hard_forward_and_the_identity_backward(dtype):
    scores = (4 * draw(20, seed=5)[0]).round().to(dtype)
    grad = torch.arange(20, dtype=dtype)
    for k in range(21):
        leaf = scores.clone().requires_grad_()
        gates = straight_through_topk(leaf, k)
        assert gates.dtype == dtype
        assert torch.equal(gates, hard_topk(scores, k).to(dtype))
        gates.backward(grad)
        assert torch.equal(leaf.grad, grad)


# Bad input


@pytest.mark.parametrize("function", [hard_topk, straight_through_topk, lambda w, k: relaxed_topk(w, k, 1.0)])
@pytest.mark.parametrize("k", [-1, 7])
def test_k_out_of_range_names_the_range(function, k):
    with pytest.raises(ValueError, match=rf"0\.\.6, got {k}"):
        function(torch.zeros(6), k)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf, 1e-40])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="temperature"):
        relaxed_topk(torch.zeros(3), 1, temperature)


def test_shapes_and_types_are_checked():
    with pytest.raises(ValueError, match="vector"):
        relaxed_topk(torch.zeros(2, 3, 3), 1, 1.0)
    with pytest.raises(ValueError, match="floating"):
        hard_topk(torch.zeros(3, dtype=torch.long), 1)
    with pytest.raises(ValueError, match="noise"):
        relaxed_topk(torch.zeros(3), 1, 1.0, torch.zeros(4))
    with pytest.raises(TypeError):
        hard_topk(torch.zeros(3), 1.5)
