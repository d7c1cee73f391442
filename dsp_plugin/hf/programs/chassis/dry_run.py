"""`--dry_run`: what a training would train, how long it would take and what it would write; then it stops."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

_TIMED = 4  # updates; the first one is slower and does not count


class _Clock(TrainerCallback):
    """Notes when each update ends."""

    def __init__(self):
        self.ends: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


def plan_lines(trainer: Trainer, updates: int, units: str, done: int = 0) -> list[str]:
    """Make a few real updates of the model in memory, and say what the whole training would be.

    Args:
        trainer: the training's own, whose output folder is a temporary one.
        updates: that the training makes in all. units: what it says of the heads that stay.
        done: updates that a checkpoint has made already.
    """
    args, clock = trainer.args, _Clock()
    parameters = list(trainer.model.parameters())
    learning = sum(p.numel() for p in parameters if p.requires_grad)
    # the Trainer reads these when it starts, and nothing else is to be done
    args.max_steps, args.save_strategy, args.eval_strategy = min(_TIMED, max(1, updates)), "no", "no"
    args.load_best_model_at_end = False
    trainer.add_callback(clock)
    trainer.train()
    times = [end - begin for begin, end in zip(clock.ends, clock.ends[1:])]
    seconds = statistics.median(times[1:] or times)
    state = trainer.optimizer.state_dict()["state"].values()
    moments = sum(_bytes(value) for one in state for value in one.values())
    weights = sum(map(_bytes, trainer.model.state_dict().values()))
    left = max(0, updates - done)
    return [
        f"dry run: {learning:,} of {sum(p.numel() for p in parameters):,} parameters would learn; {units}",
        f"dry run: {len(trainer.train_dataset):,} examples, {updates:,} updates"
        + (f", {done:,} of them made" if done else ""),
        f"dry run: about {_duration(left * seconds)} ({seconds:.3g} s an update: the median of "
        f"{len(times[1:] or times)} real ones in memory; scoring and saving are not in it)",
        f"dry run: {weights / 1e6:,.2f} MB of weights and {moments / 1e6:,.2f} MB of optimizer state a "
        "checkpoint; nothing was written",
    ]


def _bytes(value: Any) -> int:
    return value.numel() * value.element_size() if torch.is_tensor(value) else 0


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"
