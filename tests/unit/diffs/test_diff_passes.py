"""The elementwise passes: fused and eager alike, noise that is noise, gates and Adam's eps by their
formulas.
"""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from torch import nn

from dsp_plugin.diffs import compiled
from dsp_plugin.diffs.training.groups import by_neuron, by_tensor
from dsp_plugin.diffs.training.optimizer import DiffAdamW
from dsp_plugin.diffs.training.passes import native
from dsp_plugin.diffs.training.passes.concrete import StretchedConcrete
from dsp_plugin.diffs.training.passes.flat import PIECE, FlatLayout
from dsp_plugin.diffs.training.passes.noise import step_keys, uniform
from dsp_plugin.diffs.training.passes.torch_passes import (
    WINDOW,
    Moments,
    NextTheta,
    Rates,
    StepInputs,
    TorchPasses,
)
from dsp_plugin.diffs.training.vector import DiffVector

# longer than a piece, of odd lengths, a vector, a single number
KEYS, FIRST = (
    (-1232057522, -1230961157),
    [0.581328272819519, 0.7769865989685059, 0.5579514503479004, 0.8733431100845337],
)
SHAPES = [(3, PIECE // 2 + 7), (5, 33), (19,), (1,), (2, 3, 4)]


def two_to_the_side(name, shape):
    """A group function of one's own: columns by parity."""
    return torch.arange(shape[-1]) % 2 if len(shape) == 2 and shape[0] == 5 else "all others"


def problem(dtype, grouping):
    generator = torch.Generator().manual_seed(2)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    parameters = [nn.Parameter(normal(*shape).to(dtype)) for shape in SHAPES]
    layout = FlatLayout([str(number) for number in range(len(SHAPES))], parameters, grouping)
    base = [(normal(*shape) * 0.1).to(dtype) for shape in SHAPES]
    grads = [normal(*shape).to(dtype) for shape in SHAPES]
    grads[2] = None
    w, alpha = normal(layout.total) * 0.1, normal(layout.total) * 4
    alpha[:3] = torch.tensor([100.0, -100.0, 0.0])
    moments = Moments(*(part.abs() * 0.01 for part in normal(4, layout.total).unbind()))
    gate, price = normal(layout.groups).abs().clamp(max=1), normal(layout.flat.numel()).abs()
    return layout, base, grads, w, alpha, moments, gate, price


def everything(passes, base, grads, w, alpha, moments, gate, price):
    """What every pass writes, from the same start."""
    w, alpha, moments = w.clone(), alpha.clone(), Moments(*(part.clone() for part in moments))
    results = []

    def note():
        results.extend(parameter.detach().float().clone() for parameter in passes.layout.parameters)

    passes.write(base, w, alpha, gate, None), note()
    passes.write(base, w, alpha, gate, (5, -6)), note()
    results.append(passes.measure(StepInputs(grads, w, alpha, gate, price, (5, -6))))
    w_rates, alpha_rates = Rates(torch.tensor(0.5), 1e-2, 3.0, 1e-8), Rates(2.0, 0.1, 2.0, 1e-6)
    passes.update(
        StepInputs(grads, w, alpha, gate, price, (5, -6)), moments, w_rates, alpha_rates, (0.9, 0.99)
    )
    results += [w.clone(), alpha.clone(), *(part.clone() for part in moments)]
    following = NextTheta(base, gate.flip(0), (7, 8))
    (
        passes.update(
            StepInputs(grads, w, alpha, gate, price, (5, -6)),
            moments,
            w_rates,
            alpha_rates,
            (0.9, 0.99),
            following,
        ),
        note(),
    )
    return [*results, w, alpha, *moments]


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grouping", [by_tensor, by_neuron, two_to_the_side])
def test_fused_passes_do_what_the_eager_ones_do(dtype, grouping):
    layout, *rest = problem(dtype, grouping)
    assert native.NativePasses.can(layout, torch.float32)
    eager = everything(TorchPasses(layout, StretchedConcrete()), *rest)
    fused = everything(native.NativePasses(layout, StretchedConcrete()), *rest)
    assert len(eager) == len(fused) == 3 * len(SHAPES) + 1 + 12
    for number, (one, other) in enumerate(zip(fused, eager)):
        # theta in bfloat16 may round to the neighbouring number
        theta = number < 2 * len(SHAPES) or 2 * len(SHAPES) + 6 < number <= 3 * len(SHAPES) + 6
        rtol = 1e-2 if theta and dtype == torch.bfloat16 else 2e-4
        torch.testing.assert_close(one.double(), other.double(), rtol=rtol, atol=2e-6)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
def test_compiled_passes_do_what_the_eager_ones_do_and_are_compiled_once(monkeypatch):
    """What a GPU runs, on the CPU: noise, formulas and updates through torch.compile, over several windows
    and steps.
    """
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    layout, *rest = problem(torch.float32, by_tensor)
    eager = everything(TorchPasses(layout, StretchedConcrete()), *rest)
    monkeypatch.setitem(WINDOW, "cpu", 1 << 12)
    passes = TorchPasses(layout, StretchedConcrete(), compiled=True)
    assert len(passes.windows) > 2
    compiled = everything(passes, *rest)
    for one, other in zip(compiled, eager):
        torch.testing.assert_close(one.double(), other.double(), rtol=2e-4, atol=2e-6)
    base, grads, w, alpha, moments, gate, price = rest
    graphs = counters["stats"]["unique_graphs"]
    for step in range(3, 7):  # other keys and other rates
        passes.write(base, w, alpha, gate, step_keys(1, step))
        w_rates = Rates(torch.tensor(0.1 * step), 1e-2 / step, 1 + 1 / step, 1e-8)
        alpha_rates = Rates(1.0, 0.1, 1 + 1 / step, 1e-6)
        passes.update(
            StepInputs(grads, w, alpha, gate, price, step_keys(1, step)),
            moments,
            w_rates,
            alpha_rates,
            (0.9, 0.99),
        )
    assert graphs <= counters["stats"]["unique_graphs"] <= graphs + 1


@pytest.mark.parametrize("kind", [TorchPasses, native.NativePasses])
def test_theta_is_the_same_to_the_bit_whether_a_step_or_a_resume_writes_it(kind):
    layout, base, grads, w, alpha, moments, gate, price = problem(torch.float32, by_neuron)
    if kind is native.NativePasses and not kind.can(layout, torch.float32):
        pytest.skip("needs a C++ compiler")
    passes, rates = kind(layout, StretchedConcrete()), Rates(1.0, 1e-2, 1.0, 1e-8)
    following = NextTheta(base, gate, (7, 8))
    passes.update(
        StepInputs(grads, w, alpha, gate, price, (5, -6)), moments, rates, rates, (0.9, 0.99), following
    )
    by_step = [parameter.detach().clone() for parameter in layout.parameters]
    for parameter in layout.parameters:
        parameter.data.zero_()
    passes.write(base, w, alpha, gate, (7, 8))
    assert all(torch.equal(one, other.detach()) for one, other in zip(by_step, layout.parameters))


def test_threads_do_not_change_a_bit():
    layout, *rest = problem(torch.float32, by_neuron)
    if not native.NativePasses.can(layout, torch.float32):
        pytest.skip("needs a C++ compiler")
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3, 64):
            torch.set_num_threads(threads)
            passes = native.NativePasses(layout, StretchedConcrete())
            results.append(everything(passes, *rest))
            bounds = passes._shares(threads)
            assert (
                bounds == sorted(bounds) and bounds[-1] == layout.flat.numel() and len(bounds) == threads + 1
            )
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for many in results[1:] for one, other in zip(results[0], many))


def test_without_a_compiler_the_eager_passes_are_taken_with_a_warning(monkeypatch):
    native.library.cache_clear()
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler"):
        assert not native.NativePasses.can(problem(torch.float32, by_tensor)[0], torch.float32)
    native.library.cache_clear()


def test_noise_is_uniform_and_unrelated_between_positions_steps_and_seeds():
    size = 1 << 18
    draws = [uniform(0, size, step_keys(*key)).double() for key in [(1, 0), (1, 1), (2, 0)]]
    for u in draws:
        assert 0.99e-4 < u.min() and u.max() < 1 - 0.99e-4
        counts = torch.histc(u.float(), bins=64, min=0, max=1).double()
        # chi-square, five sigmas
        assert ((counts - size / 64) ** 2 / (size / 64)).sum() < 64 + 5 * math.sqrt(2 * 64)
    pairs = [(draws[0], draws[1]), (draws[0], draws[2])] + [
        (draws[0][lag:], draws[0][:-lag]) for lag in (1, 2, 256, 1024)
    ]
    for one, other in pairs:
        correlation = torch.corrcoef(torch.stack([one, other]))[0, 1]
        assert abs(correlation) < 5 / math.sqrt(one.numel())


def test_noise_depends_on_position_alone_and_never_changes():
    keys = step_keys(7, 3)
    whole = uniform(0, 1000, keys)
    assert torch.equal(whole[137:400], uniform(137, 263, keys))
    assert torch.equal(uniform(2**31 - 5, 10, keys)[5:], uniform(2**31, 5, keys))
    # the numbers themselves: a file of positions made with one version must mean the same in the next
    assert keys == KEYS and torch.equal(whole[:4], torch.tensor(FIRST))


def test_gates_are_the_papers():
    concrete = StretchedConcrete()
    alpha = torch.linspace(-20, 20, 401, dtype=torch.float64, requires_grad=True)
    for u in (1e-4, 0.3, 0.9999):
        s = torch.sigmoid(torch.logit(torch.tensor(u, dtype=torch.float64)) + alpha)
        z = (s * 3 - 1.5).clamp(0, 1)
        (slope,) = torch.autograd.grad(z.sum(), alpha)
        mine, mine_slope = concrete.sample(alpha.detach(), torch.full_like(alpha, u).detach())
        torch.testing.assert_close(mine, z.detach())
        torch.testing.assert_close(mine_slope, slope)
    mean = (torch.sigmoid(alpha) * 3 - 1.5).clamp(0, 1)
    torch.testing.assert_close(concrete.mean(alpha.detach())[0], mean.detach())
    other = StretchedConcrete(-0.1, 1.1)
    opened = torch.sigmoid(alpha - math.log(0.1 / 1.1))
    (opening,) = torch.autograd.grad(opened.sum(), alpha)
    torch.testing.assert_close(other.open_probability(alpha.detach()), (opened.detach(), opening))


def test_at_the_start_gates_are_shut_and_open_as_often_as_the_paper_says():
    u = uniform(0, 400_000, step_keys(0, 0))
    z, _ = StretchedConcrete().sample(torch.full_like(u, 5.0), u)
    assert (z == 0).float().mean().item() == pytest.approx(1 / (1 + math.exp(5)), abs=6e-4)  # 0.0067
    assert (z == 1).float().mean().item() == pytest.approx(1 - 5 / (5 + math.exp(5)), abs=1.5e-3)  # 0.967


@pytest.mark.parametrize(
    "uncorrected, expected",
    [
        (False, {100: 3.8, 250: -4.1, 500: -5.5, 1000: -6.5}),
        (True, {100: 4.8, 250: 4.0, 500: -4.2, 1000: -5.9}),
    ],
)
def test_alpha_under_the_penalty_alone_falls_as_fast_as_eps_lets_it(uncorrected, expected):
    """The figures for torch's AdamW and for Transformers' former one at lambda 1.25e-7."""
    vector = DiffVector(nn.Linear(2, 2), grouping=None, penalty=1.25e-7)
    optimizer = DiffAdamW(
        vector,
        lr=0.0,
        alpha_lr=0.1,
        eps=1e-8,
        eps_uncorrected=uncorrected,
        max_norm=None,
        alpha_max_norm=None,
    )
    for step in range(1, 1001):
        vector.sample()
        for parameter in vector.layout.parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        if step in expected:
            assert vector.alpha.tolist() == pytest.approx([expected[step]] * 6, abs=0.06), step


def test_groups_by_tensor_by_neuron_and_by_a_function():
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in [(2, 3), (4,)]]

    def pieces(grouping):
        layout = FlatLayout(["a", "b"], parameters, grouping)
        columns = [layout.flat, layout.local, layout.length, layout.tensor, layout.group]
        return torch.stack(columns, 1).tolist(), layout

    assert pieces(by_tensor)[0] == [[0, 0, 6, 0, 0], [6, 0, 4, 1, 1]]
    assert pieces(by_neuron)[0] == [[0, 0, 3, 0, 0], [3, 3, 3, 0, 1], [6, 0, 4, 1, 2]]
    columns, layout = pieces(lambda name, shape: torch.tensor([4, 4, 9]) if name == "a" else "b")
    assert columns == [[0, 0, 2, 0, 0], [2, 2, 1, 0, 1], [3, 3, 2, 0, 0], [5, 5, 1, 0, 1], [6, 0, 4, 1, 2]]
    assert layout.group_sums(torch.tensor([1.0, 10, 100, 1000, 5]).double()).tolist() == [101, 1010, 5]
    assert pieces(lambda name, shape: "one")[1].groups == 1
    for wrong in (torch.zeros(3), torch.zeros(7, dtype=torch.int64), {"unhashable": 1}):
        with pytest.raises(ValueError, match="group"):
            pieces(lambda name, shape: wrong)


def test_columns_of_a_large_matrix_are_refused_as_groups_and_rows_are_not():
    def layout(size, rows):
        numbers = torch.arange(size).view((-1, 1) if rows else (1, -1))
        return FlatLayout(
            ["small", "large"],
            [torch.zeros(4, 4), torch.zeros(size, size)],
            lambda name, shape: numbers if name == "large" else name,
        )

    assert layout(64, rows=False).groups == 65 and layout(1024, rows=True).groups == 1025
    with pytest.raises(
        ValueError, match=r"'large' \[1024, 1024\].*1048576 stretches of fewer than 8.*rows, not columns"
    ):
        layout(1024, rows=False)
