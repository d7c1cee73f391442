"""`--dry_run`: what a training would train, how long it would take and what it would write; then it stops."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from ....records.plan import TrainingPlan

_TIMED = 4  # updates; the first one is slower and does not count


class _Clock(TrainerCallback):
    """Notes when each update ends."""

    def __init__(self):
        self.ends: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


def plan_of(trainer: Trainer, updates: int, heads: str, done: int = 0) -> TrainingPlan:
    """Make a few real updates of the model in memory, and return what the whole training would be.

    Args:
        trainer: the training's own, whose output folder is a temporary one.
        updates: that the training makes in all. heads: what it says of the heads that stay.
        done: updates that a checkpoint has made already.
    """
    args, clock = trainer.args, _Clock()
    parameters = list(trainer.model.parameters())
    # the Trainer reads these when it starts, and nothing else is to be done
    args.max_steps, args.save_strategy, args.eval_strategy = min(_TIMED, max(1, updates)), "no", "no"
    args.load_best_model_at_end = False
    trainer.add_callback(clock)
    trainer.train()
    times = [end - begin for begin, end in zip(clock.ends, clock.ends[1:])]
    times = times[1:] or times
    state = trainer.optimizer.state_dict()["state"].values()
    return TrainingPlan(
        learning=sum(p.numel() for p in parameters if p.requires_grad),
        parameters=sum(p.numel() for p in parameters),
        heads=heads,
        examples=len(trainer.train_dataset),
        updates=updates,
        done=done,
        seconds=statistics.median(times),
        timed=len(times),
        weights=sum(map(_bytes, trainer.model.state_dict().values())),
        moments=sum(_bytes(value) for one in state for value in one.values()),
    )


def _bytes(value: Any) -> int:
    return value.numel() * value.element_size() if torch.is_tensor(value) else 0
