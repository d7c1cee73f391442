"""`--dry-run`: what a training would train, how long it would take and what it would write; then it stops."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import nn

_TIMED = 3  # updates after a first one, which is slower


@dataclass(frozen=True)
class Plan:
    """What a training would be.

    Attributes:
        learning, parameters: weights that learn, of all (head scores among them).
        heads_left, heads: attention heads that stay, of all; `heads_left` is None where the training
            itself decides.
        sentences: of the training set. updates: that would be made in all; None: no option says so.
        seconds: of one update, the median of a few real ones.
        checkpoint, moments: bytes of a checkpoint, and of the optimizer's state in memory.
    """

    learning: int
    parameters: int
    heads_left: Optional[int]
    heads: int
    sentences: int
    updates: Optional[int]
    seconds: float
    checkpoint: int
    moments: int

    def lines(self) -> list[str]:
        """Say it, a line each."""
        stay = "as many as the penalty leaves" if self.heads_left is None else f"{self.heads_left}"
        updates = "no option bounds them" if self.updates is None else f"{self.updates:,}"
        total = "unknown" if self.updates is None else _duration(self.updates * self.seconds)
        return [
            f"dry run: {self.learning:,} of {self.parameters:,} parameters would learn",
            f"dry run: heads that stay: {stay} of {self.heads}",
            f"dry run: {self.sentences:,} sentences, updates: {updates}",
            f"dry run: about {total} ({self.seconds:.3g} s an update: the median of {_TIMED} real ones on a "
            "model in memory; validation and saving are not in it)",
            f"dry run: {self.checkpoint / 1e6:,.1f} MB a checkpoint, {self.moments / 1e6:,.1f} MB of moments "
            "in memory; nothing was written",
        ]


def plan_of(parsed: argparse.Namespace) -> Plan:
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
    criterion = task.build_criterion(cfg.criterion)
    task.load_dataset(cfg.dataset.train_subset)
    trainer = Trainer(cfg, task, model, criterion)
    batches = trainer.get_train_iterator(epoch=1, load_dataset=False)
    accumulated = cfg.optimization.update_freq[0]
    seconds = _seconds_an_update(trainer, batches, accumulated)
    return Plan(
        learning=sum(p.numel() for p in model.parameters() if p.requires_grad),
        parameters=sum(p.numel() for p in model.parameters()),
        **_heads(model),
        sentences=len(task.dataset(cfg.dataset.train_subset)),
        updates=_updates(cfg, math.ceil(len(batches) / accumulated)),
        seconds=seconds,
        **_bytes(model, trainer),
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


def _heads(model: nn.Module) -> dict[str, Optional[int]]:
    """Count the model's heads, and how many its gates would keep."""
    from ..heads.gated_transformer import head_map_of

    heads = head_map_of(model).num_heads
    gates = getattr(getattr(model, "gating", None), "gates", None)
    budget = getattr(gates, "budget", None)
    left = heads if gates is None else None if budget is None else budget.total
    return {"heads_left": left, "heads": heads}


def _updates(cfg: Any, an_epoch: int) -> Optional[int]:
    limits = [cfg.optimization.max_update] if cfg.optimization.max_update else []
    limits += [cfg.optimization.max_epoch * an_epoch] if cfg.optimization.max_epoch else []
    return min(limits) if limits else None


def _bytes(model: nn.Module, trainer: Any) -> dict[str, int]:
    """Count the bytes of the model's and of the optimizer's tensors, as a checkpoint holds them."""

    def size(value: Any) -> int:
        if torch.is_tensor(value):
            return value.numel() * value.element_size()
        if isinstance(value, dict):
            return sum(map(size, value.values()))
        return sum(map(size, value)) if isinstance(value, (list, tuple)) else 0

    moments = size(trainer.optimizer.state_dict())
    return {"checkpoint": size(dict(model.state_dict())) + moments, "moments": moments}


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def dry_run(options: argparse.Namespace) -> Plan:
    """Print what `fairseq-train` with these options would do, and do none of it."""
    from .launch import hush_hosts

    hush_hosts()
    plan = plan_of(options)
    for line in plan.lines():
        print(f"| {line}", flush=True)
    return plan
