"""`--dry-run`: what a training would train, how long it would take and what it would write; then it stops."""

from __future__ import annotations

import argparse
import math
import time
from typing import Any, Optional

import torch
from torch import nn

from ....records.kept_heads import kept_in_words
from ....records.plan import TrainingPlan, heads_that_stay

_TIMED = 3  # updates after a first one, which is slower


def plan_of(parsed: argparse.Namespace) -> TrainingPlan:
    """Build the task, the data, the model and the optimizer of a training, and time a few updates.

    Args:
        parsed: fairseq-train's options, see `launch.training_options`.

    Raises:
        ValueError, OSError: what the training itself would refuse.
    """
    from fairseq import tasks
    from fairseq.dataclass.initialize import add_defaults
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.trainer import Trainer

    cfg = convert_namespace_to_omegaconf(parsed)
    add_defaults(cfg)  # as fairseq's own program; a model may then have options that only its base knows
    torch.manual_seed(cfg.common.seed)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    task.score_start = None  # the few updates below are timed, and nothing is chosen
    criterion = task.build_criterion(cfg.criterion)
    task.load_dataset(cfg.dataset.train_subset)
    trainer = Trainer(cfg, task, model, criterion)
    batches = trainer.get_train_iterator(epoch=1, load_dataset=False)
    accumulated = cfg.optimization.update_freq[0]
    seconds = _seconds_an_update(trainer, batches, accumulated)
    return TrainingPlan(
        learning=sum(p.numel() for p in model.parameters() if p.requires_grad),
        parameters=sum(p.numel() for p in model.parameters()),
        heads=_heads(model),
        noun="sentences",
        examples=len(task.dataset(cfg.dataset.train_subset)),
        updates=_updates(cfg, math.ceil(len(batches) / accumulated)),
        seconds=seconds,
        timed=_TIMED,
        weights=_size(dict(model.state_dict())),
        moments=_size(trainer.optimizer.state_dict()),
    )


def _seconds_an_update(trainer: Any, batches: Any, accumulated: int) -> float:
    """Make a few updates of the model in memory, and return the seconds of one."""
    samples = []
    for sample in batches.next_epoch_itr(shuffle=False):
        samples.append(sample)
        if len(samples) == accumulated:
            break
    trainer.begin_epoch(1)
    times = []
    for _ in range(_TIMED + 1):
        begin = time.perf_counter()
        trainer.train_step(list(samples))
        times.append(time.perf_counter() - begin)
    return sorted(times[1:])[_TIMED // 2]


def _heads(model: nn.Module) -> str:
    """Say how many of the model's heads its gates would keep."""
    from ...heads.gated_transformer import head_map_of

    head_map = head_map_of(model)
    heads = head_map.num_heads
    gates = getattr(getattr(model, "gating", None), "gates", None)
    budget = getattr(gates, "budget", None)
    if head_map.mixed and (gates is None or budget is not None):
        keep = torch.ones(heads) if gates is None else gates.keep()
        return f"units that stay: {kept_in_words(head_map.to_dict(), keep.tolist())}"
    left = heads if gates is None else None if budget is None else budget.total
    return heads_that_stay(left, heads)


def _updates(cfg: Any, an_epoch: int) -> Optional[int]:
    limits = [cfg.optimization.max_update] if cfg.optimization.max_update else []
    limits += [cfg.optimization.max_epoch * an_epoch] if cfg.optimization.max_epoch else []
    return min(limits) if limits else None


def _size(value: Any) -> int:
    """Count the bytes of tensors, however deep they lie in lists and dictionaries."""
    if torch.is_tensor(value):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, (list, tuple)) else 0


def dry_run(options: argparse.Namespace) -> TrainingPlan:
    """Print what `fairseq-train` with these options would do, and do none of it."""
    from .launch import hush_hosts

    hush_hosts()
    plan = plan_of(options)
    for line in plan.lines():
        print(f"| {line}", flush=True)
    return plan
