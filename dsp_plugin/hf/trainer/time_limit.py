"""A training of a limited time, which counts what it took before it was stopped and started again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ...options.errors import OptionError
from ...records.files.sealed import read_json, write_json

_CLOCK = "clock.json"


class Clock(TrainerCallback):
    """Ends a training after a number of seconds, of which a checkpoint keeps those that are over.

    Args:
        limit: seconds. before: those of the training that goes on.
        now: the clock.
    """

    def __init__(self, limit: float, before: float = 0.0, now: Callable[[], float] = time.monotonic):
        self.limit, self.before, self.now = limit, before, now
        self.started: float | None = None

    @property
    def seconds(self) -> float:
        """The time of the training so far."""
        return self.before + (0.0 if self.started is None else self.now() - self.started)

    @property
    def progress(self) -> float:
        """The share of the time that is over, 0 to 1."""
        return min(self.seconds / self.limit, 1.0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = self.now()
        if self.progress == 1.0:
            control.should_training_stop = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.progress == 1.0:
            control.should_training_stop = control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        write_json(folder / _CLOCK, json.dumps({"seconds": self.seconds}) + "\n")


def seconds_of(checkpoint: str | None) -> float:
    """Return the seconds that a training took up to its checkpoint; 0 without one.

    Raises:
        OptionError: resume_from_checkpoint, where the checkpoint does not say.
    """
    path = None if checkpoint is None else Path(checkpoint) / _CLOCK
    if path is None:
        return 0.0
    if not path.is_file():
        raise OptionError("resume_from_checkpoint", f"{checkpoint} does not say how long it took ({_CLOCK})")
    return float(read_json(path)["seconds"])
