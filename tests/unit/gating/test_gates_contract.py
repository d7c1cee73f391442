"""The contract of `HeadGates`, run over every implementation. A new method adds one row to `METHODS`."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from head_maps import head_map

from dsp_plugin.gating import (
    AlmostSureGates,
    AttentionBlock,
    ConcreteGates,
    ExactSubset,
    ExponentialCooling,
    FixedGates,
    HeadBudget,
    HeadGates,
    HeadMap,
    LagrangianGates,
    RankedGates,
    RelaxedSubset,
    Rounds,
    StraightThroughSubset,
    Switchboard,
    constant_temperature,
    gumbel_noise,
    hard_topk,
    relaxed_topk,
)
from dsp_plugin.gating.methods.almost_sure import DOUBLING, thousandfold
from dsp_plugin.options.errors import OptionError

HEADS = head_map(("a", 4, "encoder-self"), ("b", 0, "decoder-cross"), ("c", 3, "decoder-self"))
N = HEADS.num_heads


def fixed(budget: int) -> FixedGates:
    return FixedGates(hard_topk(torch.randn(N), budget))


def by_block(budget):
    """A budget with the largest minimum a block that it can pay, 0 or 1."""
    return HeadBudget(HEADS, budget, minimum=1 if budget >= 2 else 0)


# name: build(budget K) -> gates. Scores, or whatever the method learns, are drawn anew at every call.
METHODS = {
    "relaxed-annealed": lambda budget: RelaxedSubset(HEADS, budget, ExponentialCooling(1.0, 0.01, 100)),
    "relaxed-constant": lambda budget: RelaxedSubset(HEADS, budget, constant_temperature(0.1)),
    "straight-through": lambda budget: StraightThroughSubset(HEADS, budget),
    "relaxed-minimum": lambda budget: RelaxedSubset(HEADS, by_block(budget), constant_temperature(0.1)),
    "straight-through-minimum": lambda budget: StraightThroughSubset(HEADS, by_block(budget)),
    "exact": lambda budget: ExactSubset(HEADS, budget),
    "exact-annealed": lambda budget: ExactSubset(HEADS, budget, ExponentialCooling(1.0, 0.01, 100)),
    "exact-minimum": lambda budget: ExactSubset(HEADS, by_block(budget)),
    "ranked": lambda budget: RankedGates(HEADS, budget, torch.randn(N)),
    "concrete": lambda budget: ConcreteGates(HEADS, budget, l0_penalty=0.1),
    "concrete-no-budget": lambda budget: ConcreteGates(HEADS, None, l0_penalty=0.1),
    "lagrangian": lambda budget: LagrangianGates(HEADS, budget, 50),
    "concrete-reopened": lambda budget: ConcreteGates(HEADS, budget, 0.1, Rounds("reopen", 10)),
    "almost-sure": lambda budget: AlmostSureGates(HEADS, budget, DOUBLING, Rounds("reopen", 10)),
    "almost-sure-concentrated": lambda budget: AlmostSureGates(
        HEADS, budget, thousandfold(20), Rounds("clip", 10), concentration=500.0
    ),
    "fixed": fixed,
}
LEARNING = [name for name in METHODS if name not in ("fixed", "ranked")]
EXACT = [name for name in METHODS if name != "concrete-no-budget"]  # those that keep K heads
# those whose training sample keeps to the budget too
SUBSETS = [name for name in EXACT if not name.startswith(("concrete", "lagrangian", "almost-sure"))]
WITH_BUDGET = [name for name in EXACT if name != "fixed"]  # those that are told K and check it

every_method = pytest.mark.parametrize("build", METHODS.values(), ids=METHODS.keys())
every_learner = pytest.mark.parametrize("build", [METHODS[name] for name in LEARNING], ids=LEARNING)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@every_method
def test_it_speaks_the_protocol(build):
    gates = build(3)
    assert isinstance(gates, torch.nn.Module)
    # Since Python 3.12 isinstance sees no parameter of a module, so each member is looked up.
    members = {*HeadGates.__annotations__, *(name for name in vars(HeadGates) if not name.startswith("_"))}
    assert {"num_heads", "scores", "sample", "keep", "penalty", "set_num_updates", "metrics"} <= members
    assert [name for name in sorted(members) if not hasattr(gates, name)] == []
    assert gates.num_heads == N
    sample, keep, penalty = gates.sample(), gates.keep(), gates.penalty()
    assert sample.shape == (N,) and sample.dtype == torch.float32 and bool((sample >= 0).all())
    assert keep.shape == (N,) and keep.dtype == torch.bool and not keep.requires_grad
    assert penalty.shape == () and bool(torch.isfinite(penalty))
    for value in gates.metrics().values():
        assert isinstance(value, (int, float)) or value.shape == ()


@pytest.mark.parametrize("build", [METHODS[name] for name in EXACT], ids=EXACT)
@pytest.mark.parametrize("budget", range(N + 1))
def test_a_budget_keeps_exactly_that_many(build, budget):
    gates = build(budget)
    assert int(gates.keep().sum()) == budget


@pytest.mark.parametrize("build", [METHODS[name] for name in SUBSETS], ids=SUBSETS)
@pytest.mark.parametrize("budget", range(N + 1))
def test_a_subset_sample_keeps_to_the_budget(build, budget):
    gates = build(budget)
    assert float(gates.sample().detach().sum()) == pytest.approx(budget, abs=1e-5)


@pytest.mark.parametrize("build", [METHODS[name] for name in WITH_BUDGET], ids=WITH_BUDGET)
@pytest.mark.parametrize("budget", [-1, N + 1, 2.5, float("nan")])
def test_a_budget_outside_the_range(build, budget):
    with pytest.raises(OptionError, match=rf"num_of_heads.*0\.\.{N}"):
        build(budget)


ONE_BUDGET = [name for name in WITH_BUDGET if not name.endswith("-minimum")]


@pytest.mark.parametrize("build", [METHODS[name] for name in ONE_BUDGET], ids=ONE_BUDGET)
def test_ties_are_broken_by_position(build):
    gates = build(3)
    for parameter in gates.parameters():
        torch.nn.init.constant_(parameter, 0.25)
    assert gates.keep().tolist() == [True] * 3 + [False] * (N - 3)


@every_method
def test_keep_is_deterministic_and_draws_nothing(build):
    gates = build(3)
    state = torch.get_rng_state()
    first = gates.keep()
    assert torch.equal(gates.keep(), first)
    assert torch.equal(torch.get_rng_state(), state)


@every_method
def test_keep_is_the_same_at_any_time_of_training(build):
    gates = build(3)
    first = gates.keep()
    for updates in (50, 1000):
        gates.set_num_updates(updates)
        gates.sample()
        assert torch.equal(gates.keep(), first)


@every_method
def test_evaluation_uses_keep_and_nothing_random(build):
    gates = build(3)
    board = Switchboard(HEADS, gates)
    board.draw()
    board.eval()
    board.draw()
    state = torch.get_rng_state()
    seen = [
        g if g is not None else torch.ones(b.num_heads)
        for b, g in zip(HEADS.blocks, map(board.block_gates, range(3)))
    ]
    assert torch.equal(torch.cat(seen), gates.keep().float())
    assert torch.equal(torch.get_rng_state(), state)


@every_learner
def test_the_sample_teaches_the_method(build):
    gates = build(3)
    gates.set_num_updates(0)
    # what the penalty alone teaches (the prices of a constraint) is in every sample, too
    (gates.sample() * torch.linspace(-1, 1, N)).sum().backward(retain_graph=True)
    assert all(parameter.grad is not None for parameter in gates.parameters())
    if gates.penalty().requires_grad:
        gates.penalty().backward()
    for name, parameter in gates.named_parameters():
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), name
        assert parameter.grad.abs().max() > 0, name


@every_learner
@pytest.mark.parametrize("budget", [0, N])
def test_the_sample_is_differentiable_at_both_ends(build, budget):
    gates = build(budget)
    gates.sample().sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in gates.parameters())


@every_method
def test_state_survives_saving_and_loading(build):
    gates, other = build(3), build(3)
    saved = io.BytesIO()
    torch.save(gates.state_dict(), saved)
    saved.seek(0)
    other.load_state_dict(torch.load(saved, weights_only=True))
    for n in (0, 30):
        gates.set_num_updates(n), other.set_num_updates(n)
        torch.manual_seed(5)
        first = gates.sample()
        torch.manual_seed(5)
        assert torch.equal(other.sample(), first)
    assert torch.equal(other.keep(), gates.keep())


@every_method
def test_two_ranks_with_one_state_agree(build):
    """The mask depends on the state alone: not on the rank's random numbers, nor on what it drew before."""
    rank0, rank1 = build(3), build(3)
    rank1.load_state_dict(rank0.state_dict())
    torch.manual_seed(123)
    rank1.sample()
    assert torch.equal(rank0.keep(), rank1.keep())


@every_method
def test_the_number_of_updates_alone_decides_the_schedule(build):
    gates, resumed = build(3), build(3)
    resumed.load_state_dict(gates.state_dict())
    for n in range(8):
        gates.set_num_updates(n)
    resumed.set_num_updates(7)
    torch.manual_seed(5)
    first = gates.sample()
    torch.manual_seed(5)
    assert torch.equal(resumed.sample(), first)


@every_method
@pytest.mark.parametrize("halve", [torch.nn.Module.half, torch.nn.Module.bfloat16], ids=["half", "bfloat16"])
def test_half_precision_models_keep_full_precision_scores(build, halve):
    gates = build(3)
    # closer to each other than half precision can tell, in an order that ties by position would not give
    for parameter in gates.parameters():
        with torch.no_grad():
            parameter.copy_(1.0 + 1e-5 * torch.arange(parameter.numel()).view_as(parameter))
        parameter.grad = torch.full_like(parameter, 1e6)
    keep, values = gates.keep(), [p.detach().clone() for p in gates.parameters()]
    halve(torch.nn.ModuleDict({"gates": gates}))
    assert all(p.dtype == torch.float32 for p in gates.parameters())
    assert all(torch.equal(p, v) for p, v in zip(gates.parameters(), values))
    assert all(bool((p.grad == 1e6).all()) and p.grad.dtype == torch.float32 for p in gates.parameters())
    assert torch.equal(gates.keep(), keep)
    assert gates.sample().dtype == torch.float32
    assert gates.penalty().dtype == torch.float32


@every_method
def test_a_copy_is_independent(build):
    gates = build(3)
    gates.sample()
    twin = copy.deepcopy(gates)
    assert torch.equal(twin.keep(), gates.keep())
    before = gates.keep().clone()
    for tensor in (*twin.parameters(), *twin.buffers()):
        with torch.no_grad():
            tensor.copy_(torch.flip(tensor, (0,)))
    assert torch.equal(gates.keep(), before)
    twin.sample()


def test_annealing_changes_the_sample_from_soft_to_hard():
    gates = METHODS["relaxed-annealed"](3)

    def softness() -> float:
        """Mean distance of a gate from 0 or 1, over many draws."""
        draws = torch.stack([gates.sample() for _ in range(200)]).detach().clamp(0, 1)
        return float(torch.minimum(draws, 1 - draws).mean())

    gates.set_num_updates(0)
    soft = softness()
    gates.set_num_updates(100)
    assert gates.metrics()["temperature"] == 0.01
    assert softness() < 0.1 * soft


@pytest.mark.parametrize("method", METHODS)
def test_a_gate_too_small_to_matter_is_an_exact_zero(method):
    """Its gradients would be such that their squares, in Adam, are denormal numbers, which a CPU is slow
    with.
    """
    torch.manual_seed(3)
    gates = METHODS[method](3)
    gates.set_num_updates(60)
    drawn = torch.stack([gates.sample().detach() for _ in range(300)])
    assert not ((drawn > 0) & (drawn < 2.0**-30)).any()
    assert (drawn.abs().sum(0) > 0).any()


def test_zeroed_gates_keep_their_gradient():
    torch.manual_seed(4)
    gates, weights = METHODS["relaxed-constant"](3), torch.linspace(-1, 1, N, dtype=torch.float64)
    seen = 0
    for seed in range(40):
        gates.scores.grad = None
        torch.manual_seed(seed)
        drawn = gates.sample()
        (drawn.double() * weights).sum().backward()
        torch.manual_seed(seed)
        twin = gates.scores.detach().clone().requires_grad_()
        exact = relaxed_topk(twin, 3, 0.1, gumbel_noise((N,), device="cpu"))
        (exact * weights).sum().backward()
        assert torch.allclose(gates.scores.grad, twin.grad, rtol=1e-5)
        assert torch.allclose(drawn, exact.float(), rtol=0, atol=2.0**-30)
        seen += int(((drawn == 0) & (exact > 0)).sum())
    assert seen, "no draw had a gate to zero, so nothing was tested"


def test_metrics_of_a_known_sample():
    gates = METHODS["relaxed-constant"](3)
    gates._last_sample = torch.tensor([1.0, 1.0, 0.5, 0.5, 0.0, 0.0, 0.0])
    figures = gates.metrics()
    assert int(figures["heads_open"]) == 2  # above one half, strictly
    assert float(figures["gate_entropy"]) == pytest.approx(2 / 7)  # one bit for each of the two undecided


def test_fixed_gates_do_not_learn():
    mask = torch.tensor([True, False, True])
    gates = FixedGates(mask)
    mask[0] = False
    assert gates.keep().tolist() == [True, False, True] and gates.sample().tolist() == [1.0, 0.0, 1.0]
    assert list(gates.parameters()) == []


def test_scores_start_xavier_uniform():
    heads = HeadMap([AttentionBlock(str(i), 4, "encoder-self") for i in range(18)])
    scores = torch.cat([StraightThroughSubset(heads, 4).scores.detach() for _ in range(200)])
    assert 0.515 < float(scores.abs().max()) <= 0.5223  # sqrt(6 / (18 + 4))
    assert abs(float(scores.mean())) < 0.01
    assert float(scores.var()) == pytest.approx(0.5222**2 / 3, rel=0.03)
