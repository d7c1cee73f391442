"""The scores' rate and decay are what they were declared to be at every step, whoever writes into the
groups.
"""

from __future__ import annotations

import copy
from argparse import Namespace

import pytest
import torch

pytest.importorskip("fairseq")

from fairseq import optim
from fairseq.optim.lr_scheduler import (
    LR_SCHEDULER_DATACLASS_REGISTRY,
    LR_SCHEDULER_REGISTRY,
    build_lr_scheduler,
)
from omegaconf import OmegaConf, open_dict

import dsp_plugin

dsp_plugin.register()

from dsp_plugin.gating import ScoreRate
from dsp_plugin.mt.heads.score_adam import DSPAdamConfig, mark_scores

PRUNING_LR, LR, EPOCH = 0.2, 1e-3, 3

SCHEDULES = {
    "cosine": {"warmup_updates": 2, "max_update": 10, "min_lr": 1e-5, "lr_period_updates": 4},
    "fixed": {"force_anneal": 2, "lr_shrink": 0.5},
    "inverse_sqrt": {"warmup_updates": 2, "warmup_init_lr": -1},
    "manual": {"epoch2lr": "{'1': 0.001, '2': 0.0005}", "update2lr": "{'4': 0.0002}"},
    "polynomial_decay": {"total_num_update": 12},  # its own warm-up is not resumed exactly by fairseq
    "reduce_lr_on_plateau": {"lr_patience": 0, "lr_shrink": 0.1, "lr_threshold": 10.0, "warmup_updates": 0},
    "step": {"lr_decay": 0.5, "lr_deacy_period": 2, "warmup_updates": 0, "min_lr": 1e-6},
    "tri_stage": {"warmup_steps": 2, "hold_steps": 2, "decay_steps": 4},
    "triangular": {"max_lr": 1e-2, "lr_period_updates": 4},
}


def scheduler_config(name):
    options = {
        **SCHEDULES[name],
        "_name": name,
        "lr": [LR],
        "max_update": SCHEDULES[name].get("max_update", 12),
    }
    if name not in LR_SCHEDULER_DATACLASS_REGISTRY:
        return Namespace(**options, lr_scheduler=name)
    known = LR_SCHEDULER_DATACLASS_REGISTRY[name]
    if "maximize_best_checkpoint_metric" in known.__dataclass_fields__:
        options["maximize_best_checkpoint_metric"] = False
    cfg = OmegaConf.structured(known())
    with open_dict(cfg):
        cfg.update(
            {
                key: value
                for key, value in options.items()
                if key == "_name" or key in known.__dataclass_fields__
            }
        )
    return cfg


def build(schedule, pruning_lr, kind="joint"):
    torch.manual_seed(0)
    weight, scores = torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(5))
    mark_scores(scores, None if pruning_lr is None else ScoreRate(pruning_lr))
    params = [weight, scores] if kind == "joint" else [scores]
    cfg = OmegaConf.structured(DSPAdamConfig(_name="dsp_adam", weight_decay=0.1, adam_betas="(0.9, 0.98)"))
    with open_dict(cfg):
        cfg.lr = [LR]
        cfg.tpu = False
    optimizer = optim.build_optimizer(cfg, params)
    scheduler = build_lr_scheduler(scheduler_config(schedule), optimizer)
    scheduler.step_update(0)
    return params, optimizer, scheduler


def run(params, optimizer, scheduler, updates):
    """These updates, as fairseq's Trainer makes them; (rate, decay) of every group as each step found
    them.
    """
    seen = []
    watch = optimizer.optimizer.register_step_pre_hook(
        lambda opt, *_: seen.append([(group["lr"], group["weight_decay"]) for group in opt.param_groups])
    )
    for update in updates:
        if update % EPOCH == 0:
            scheduler.step_begin_epoch(update // EPOCH + 1)
        optimizer.zero_grad()
        optimizer.backward(sum((p**2).sum() for p in params))
        optimizer.step()
        scheduler.step_update(update + 1)
        if (update + 1) % EPOCH == 0:
            scheduler.step((update + 1) // EPOCH, 1.0)
    watch.remove()
    return seen


def test_every_schedule_of_fairseq_is_here():
    # pass_through wants an optimizer with schedules of its own, which dsp_adam is not
    assert set(SCHEDULES) == set(LR_SCHEDULER_REGISTRY) - {"pass_through"}


@pytest.mark.parametrize("kind", ["joint", "pipelined"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_constant_rate_is_constant_under_every_schedule(schedule, kind):
    params, optimizer, scheduler = build(schedule, PRUNING_LR, kind)
    seen = run(params, optimizer, scheduler, range(9))
    assert {groups[-1] for groups in seen} == {(PRUNING_LR, 0.0)}
    saved = optimizer.state_dict()["param_groups"]
    assert saved[-1]["lr"] == PRUNING_LR and saved[-1]["weight_decay"] == 0.0
    if kind == "pipelined":
        assert optimizer.get_lr() == PRUNING_LR
    else:
        assert len({groups[0][0] for groups in seen}) > 1  # the schedule does move the model's


def falling(schedule, start, steps):
    params, optimizer, scheduler = build(schedule, PRUNING_LR, "pipelined")
    rate = params[-1].optim_overrides["score_rate"]
    rate.start, rate.steps = start, steps
    return params, optimizer, scheduler, rate


@pytest.mark.parametrize("start, steps", [(0, 8), (3, 5)])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_rate_that_falls_does_so_under_every_schedule(schedule, start, steps):
    params, optimizer, scheduler, rate = falling(schedule, start, steps)
    seen = []
    for update in range(10):
        rate.num_updates = update
        seen += run(params, optimizer, scheduler, [update])
        assert optimizer.get_lr() == optimizer.state_dict()["param_groups"][0]["lr"] == seen[-1][0][0]
    for update, groups in enumerate(seen):
        left = min(1.0, max(0.0, 1 - (update - start) / steps))
        assert groups == [(pytest.approx(PRUNING_LR * left), 0.0)]


@pytest.mark.parametrize("pruning_lr", [PRUNING_LR, None])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_resumed_training_is_the_uninterrupted_one(schedule, pruning_lr):
    params, optimizer, scheduler = build(schedule, pruning_lr)
    run(params, optimizer, scheduler, range(6))
    saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    values = [p.detach().clone() for p in params]
    whole = run(params, optimizer, scheduler, range(6, 12))

    again, optimizer, scheduler = build(schedule, pruning_lr)
    for p, value in zip(again, values):
        p.data.copy_(value)
    scheduler.load_state_dict(saved[1])  # in the Trainer's order
    optimizer.load_state_dict(saved[0], {})
    scheduler.step_update(6)
    assert run(again, optimizer, scheduler, range(6, 12)) == whole
    assert all(torch.equal(a, b) for a, b in zip(params, again))


def _by_hand(optimizer):
    for group in optimizer.optimizer.param_groups:
        group.update(lr=0.05, weight_decay=0.3)


def _by_overrides(optimizer):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()), {"lr": 0.05, "weight_decay": 0.3})


def _by_a_setter(optimizer):
    optimizer.set_lr(0.05)


def _by_torch(optimizer):
    torch.optim.lr_scheduler.ExponentialLR(optimizer.optimizer, gamma=50.0).step()


@pytest.mark.parametrize("write", [_by_hand, _by_overrides, _by_a_setter, _by_torch])
def test_whoever_writes_into_the_groups(write):
    params, optimizer, scheduler = build("inverse_sqrt", PRUNING_LR)
    run(params, optimizer, scheduler, range(3))
    write(optimizer)
    (model, scores), *_ = run(params, optimizer, scheduler, [3])
    assert scores == (PRUNING_LR, 0.0)
    assert model[0] == pytest.approx(0.05 if write is not _by_torch else 50 * LR * (2 / 3) ** 0.5)
    if write in (_by_hand, _by_overrides):
        assert model[1] == 0.3


def test_scores_that_follow_the_schedule_now_and_did_not_before_have_the_models_rate():
    _, optimizer, scheduler = build("reduce_lr_on_plateau", PRUNING_LR)
    for epoch in (1, 2, 3):
        scheduler.step(epoch, 1.0)
    saved = copy.deepcopy(optimizer.state_dict())
    assert saved["param_groups"][0]["lr"] < LR
    _, optimizer, _ = build("reduce_lr_on_plateau", None)
    optimizer.load_state_dict(saved)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates[0] == rates[1] == saved["param_groups"][0]["lr"]
