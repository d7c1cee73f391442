"""Head scores keep their own learning rate, whatever the schedule, the precision and the checkpoint say."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("fairseq")

from fairseq import optim
from fairseq.dataclass.configs import FairseqConfig
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from fairseq.optim.lr_scheduler import build_lr_scheduler
from omegaconf import OmegaConf, open_dict

import dsp_plugin

dsp_plugin.register()

from dsp_plugin.gating import ScoreRate
from dsp_plugin.mt.heads.score_adam import DSPAdam, DSPAdamConfig, mark_scores

PRUNING_LR, LR = 0.2, 1e-3


def configuration(**common):
    cfg = OmegaConf.structured(FairseqConfig())
    with open_dict(cfg):
        cfg.optimizer = OmegaConf.structured(
            DSPAdamConfig(_name="dsp_adam", weight_decay=0.1, adam_betas="(0.9, 0.98)")
        )
        cfg.optimizer.lr = [LR]
        cfg.lr_scheduler = OmegaConf.create(
            {"_name": "inverse_sqrt", "warmup_updates": 4, "warmup_init_lr": -1, "lr": [LR]}
        )
        cfg.optimization.lr = [LR]
        for name, value in common.items():
            cfg.common[name] = value
    return cfg


def parameters(dtype=torch.float32):
    """Two weights of a model (in `dtype`) and head scores."""
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(3, 2).to(dtype)), torch.nn.Parameter(torch.randn(4).to(dtype))]
    scores = torch.nn.Parameter(torch.randn(5))
    mark_scores(scores, ScoreRate(PRUNING_LR))
    return [weights[0], scores, weights[1]]


def step(optimizer, params, loss=lambda p: (p.float() ** 2).sum()) -> None:
    optimizer.zero_grad()
    optimizer.backward(sum(loss(p) for p in params))
    optimizer.step()


def groups(optimizer):
    """{number of parameters: (learning rate, weight decay)}"""
    return {
        sum(p.numel() for p in g["params"]): (g["lr"], g["weight_decay"])
        for g in optimizer.optimizer.param_groups
    }


def test_scores_have_a_group_of_their_own():
    optimizer = optim.build_optimizer(configuration().optimizer, parameters())
    assert groups(optimizer) == {10: (LR, 0.1), 5: (PRUNING_LR, 0.0)}


def test_the_schedule_moves_the_model_only():
    cfg, params = configuration(), parameters()
    optimizer = optim.build_optimizer(cfg.optimizer, params)
    scheduler = build_lr_scheduler(cfg.lr_scheduler, optimizer)
    rates = []
    for update in range(1, 9):
        scheduler.step_update(update)
        rates.append(optimizer.get_lr())
        assert groups(optimizer)[5] == (PRUNING_LR, 0.0)
    assert rates[:4] == pytest.approx([LR / 4, LR / 2, LR * 3 / 4, LR])  # warm-up
    assert rates[7] == pytest.approx(LR * (4 / 8) ** 0.5)  # decay


def test_a_step_is_adams():
    """The first step of Adam moves every entry by its learning rate, against the sign of its gradient."""
    params = parameters()
    before = [p.detach().clone() for p in params]
    cfg = configuration()
    cfg.optimizer.weight_decay = 0.0
    optimizer = optim.build_optimizer(cfg.optimizer, params)
    step(optimizer, params)
    for p, old, rate in zip(params, before, (LR, PRUNING_LR, LR)):
        torch.testing.assert_close(p.detach(), old - rate * old.sign(), atol=1e-5, rtol=1e-4)


def test_weight_decay_spares_scores():
    params = parameters()
    optimizer = optim.build_optimizer(configuration().optimizer, params)
    before = [p.detach().clone() for p in params]
    step(optimizer, params, loss=lambda p: 0.0 * p.sum())
    assert torch.equal(params[1], before[1])
    torch.testing.assert_close(params[0].detach(), before[0] * (1 - LR * 0.1))


def test_pipelined_there_are_only_scores():
    optimizer = optim.build_optimizer(configuration().optimizer, [parameters()[1]])
    assert groups(optimizer) == {5: (PRUNING_LR, 0.0)}
    optimizer.set_lr(0.5)
    assert optimizer.get_lr() == PRUNING_LR


def test_without_scores_it_is_plain_adam():
    plain, ours = ([p for p in parameters() if p.dim() != 1 or p.numel() != 5] for _ in range(2))
    cfg = configuration()
    stock = copy.deepcopy(cfg.optimizer)
    stock._name = "adam"
    for params, options in ((plain, stock), (ours, cfg.optimizer)):
        optimizer = optim.build_optimizer(options, params)
        for _ in range(3):
            step(optimizer, params)
    assert all(torch.equal(a, b) for a, b in zip(plain, ours))


def test_state_survives_a_checkpoint_bit_for_bit():
    params = parameters()
    optimizer = optim.build_optimizer(configuration().optimizer, params)
    step(optimizer, params), step(optimizer, params)
    saved = copy.deepcopy(optimizer.state_dict())
    twins = [torch.nn.Parameter(p.detach().clone()) for p in params]
    mark_scores(twins[1], ScoreRate(PRUNING_LR))
    resumed = optim.build_optimizer(configuration().optimizer, twins)
    resumed.load_state_dict(saved)
    step(optimizer, params), step(resumed, twins)
    assert all(torch.equal(a, b) for a, b in zip(params, twins))


def test_todays_pruning_lr_wins_over_the_checkpoints():
    params = parameters()
    optimizer = optim.build_optimizer(configuration().optimizer, params)
    step(optimizer, params)
    mark_scores(params[1], ScoreRate(0.05))
    resumed = optim.build_optimizer(configuration().optimizer, params)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert groups(resumed)[5] == (0.05, 0.0)
    resumed.set_lr(0.3)
    assert groups(resumed) == {10: (0.3, 0.1), 5: (0.05, 0.0)}


def test_scores_without_a_rate_of_their_own_follow_the_schedule():
    params = parameters()
    optimizer = optim.build_optimizer(configuration().optimizer, params)
    step(optimizer, params)
    mark_scores(params[1], None)
    scheduled = optim.build_optimizer(configuration().optimizer, params)
    assert groups(scheduled) == {10: (LR, 0.1), 5: (LR, 0.0)}
    scheduled.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # of a training that had one
    scheduled.set_lr(0.3)
    assert groups(scheduled) == {10: (0.3, 0.1), 5: (0.3, 0.0)}


@pytest.mark.parametrize(
    "then, now", [("joint", "pipelined"), ("pipelined", "joint"), ("unpruned", "pipelined")]
)
def test_state_of_another_kind_of_training(then, now):
    def build(kind):
        weight, scores, bias = parameters()
        params = {"joint": [weight, scores, bias], "pipelined": [scores], "unpruned": [weight, bias]}[kind]
        optimizer = optim.build_optimizer(configuration().optimizer, params)
        step(optimizer, params)
        return optimizer

    with pytest.raises(ValueError, match="--reset-optimizer"):
        build(now).load_state_dict(copy.deepcopy(build(then).state_dict()))


# ---- half precision: fairseq's optimizers around ours, as far as a CPU can show them


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_float32_master_copies_know_which_are_scores(kind):
    cfg = configuration(**{kind: True}, fp16_no_flatten_grads=True)
    dtype = torch.float16 if kind == "fp16" else torch.bfloat16
    params = parameters(dtype)
    before = [p.detach().clone().float() for p in params]
    cfg.optimizer.weight_decay = 0.0
    optimizer = optim.FP16Optimizer.build_optimizer(cfg, params)
    scheduler = build_lr_scheduler(cfg.lr_scheduler, optimizer)
    scheduler.step_update(2)
    assert groups(optimizer) == {10: (LR / 2, 0.0), 5: (PRUNING_LR, 0.0)}
    optimizer.zero_grad()
    optimizer.backward(sum((p.float() ** 2).sum() for p in params))
    optimizer.clip_grad_norm(0)
    optimizer.step()
    assert [p.dtype for p in params] == [dtype, torch.float32, dtype]
    torch.testing.assert_close(
        params[1].detach(), before[1] - PRUNING_LR * before[1].sign(), atol=1e-4, rtol=1e-3
    )
    torch.testing.assert_close(
        params[0].detach().float(), before[0] - LR / 2 * before[0].sign(), atol=2e-2, rtol=1e-2
    )
    rate = params[1].optim_overrides["score_rate"]  # the copies go by the same one
    rate.steps, rate.num_updates = 4, 1
    scheduler.step_update(2)
    assert groups(optimizer)[5] == (PRUNING_LR * 3 / 4, 0.0)


def test_memory_efficient_half_precision():
    cfg = configuration(fp16=True, memory_efficient_fp16=True)
    params = parameters(torch.float16)
    before = params[1].detach().clone()
    optimizer = optim.MemoryEfficientFP16Optimizer.build_optimizer(cfg, params)
    optimizer.set_lr(0.5)
    assert groups(optimizer) == {10: (0.5, 0.1), 5: (PRUNING_LR, 0.0)}
    optimizer.zero_grad()
    optimizer.backward(sum((p.float() ** 2).sum() for p in params))
    optimizer.clip_grad_norm(0)
    optimizer.step()
    assert params[1].dtype == torch.float32
    torch.testing.assert_close(params[1].detach(), before - PRUNING_LR * before.sign(), atol=1e-3, rtol=1e-3)


def test_one_flat_parameter_is_not_offered():
    """fairseq refuses --fp16 then and names --fp16-no-flatten-grads; one flat tensor could not tell scores
    apart.
    """
    assert not optim.build_optimizer(configuration().optimizer, parameters()).supports_flat_params


def test_clipping_takes_model_and_scores_apart():
    """A huge gradient of the scores must not take the model's away."""
    weights, scores = torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(3))
    mark_scores(scores, ScoreRate(0.2))
    optimizer = optim.build_optimizer(configuration().optimizer, [weights, scores])
    weights.grad, scores.grad = torch.full((4,), 3.0), torch.full((3,), 1e6)
    norm = optimizer.clip_grad_norm(1.0)
    assert float(norm) == pytest.approx((36 + 3e12) ** 0.5, rel=1e-5)
    assert float(weights.grad.norm()) == pytest.approx(1.0, rel=1e-3)
    assert float(scores.grad.norm()) == pytest.approx(1.0, rel=1e-3)


# ---- heads that are closed


def test_second_moments_do_not_stay_denormal_and_weights_are_as_under_stock_adam():
    """Of a weight that gets no gradient any more, as a closed head's; denormal numbers make a CPU several
    times slower.
    """
    tiny = torch.finfo(torch.float32).tiny
    found = {}
    for name, config in (("adam", FairseqAdamConfig), ("dsp_adam", DSPAdamConfig)):
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 64))
        cfg = config(lr=[LR], adam_betas="(0.9, 0.98)", adam_eps=1e-8, weight_decay=0.1, tpu=False)
        optimizer = (FairseqAdam if name == "adam" else DSPAdam)(cfg, [weight])
        generator, seen = torch.Generator().manual_seed(1), []
        for update in range(3 * 256):
            gradient = torch.randn(64, generator=generator) * 10.0 ** -torch.arange(64.0)
            weight.grad = gradient if update < 20 else torch.zeros(64)
            optimizer.step()
            seen.append(weight.detach().clone())
        found[name] = (torch.stack(seen), optimizer.optimizer.state[weight]["exp_avg_sq"])
    assert torch.equal(found["adam"][0], found["dsp_adam"][0])
    denormal = {name: int(((moments > 0) & (moments < tiny)).sum()) for name, (_, moments) in found.items()}
    assert denormal["adam"] > 0 == denormal["dsp_adam"]
