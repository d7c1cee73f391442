"""How a model is trained on after heads were removed: the one place of its learning rate and its defaults.

`run_dsp.py --tune-updates` takes it from here, and so do the pipelines of `scripts/mt/lib.sh`, whose steps
are programs of their own: `python -m dsp_plugin.mt.programs.heads.tuning_schedule 500 3e-3` prints
fairseq-train's options.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....options.numbers import number
from ..chassis.argv import words_of
from ..chassis.refusals import raise_errors, run_program

# nothing of fairseq is imported up here: a shell waits for the answer

SHARE_OF_RATE = 3
"""By default the rate rises to that of the training, divided by this."""

SHARE_OF_WARMUP = 10
"""The updates, divided by this, are those in which the rate rises."""


@dataclass(frozen=True)
class TuningSchedule:
    """The learning rate of a tuning: it rises for a tenth of the updates, then falls linearly to 0.

    So the last checkpoint is as good as the best, and the number of updates is the only thing to choose.

    Attributes:
        updates: of the tuning.
        lr: the highest rate.
    """

    updates: int
    lr: float

    @classmethod
    def after(cls, training_lr: float, updates: int) -> TuningSchedule:
        """Return the default schedule of a model that was trained with this rate."""
        # a short number where the rate was one: 3e-3 gives 0.001 and not 0.0010000000000000002
        return cls(updates, float(f"{training_lr / SHARE_OF_RATE:.6g}"))

    @property
    def warmup(self) -> int:
        return self.updates // SHARE_OF_WARMUP

    def options(self) -> dict[str, Any]:
        """Return the options of fairseq-train that make up the schedule, and end the training with it."""
        return {
            "lr": self.lr,
            "lr_scheduler": "polynomial_decay",
            "warmup_updates": self.warmup,
            "total_num_update": self.updates,
            "end_learning_rate": 0.0,
            "power": 1.0,
            "max_update": self.updates,
            "max_epoch": 0,
        }

    def __str__(self) -> str:
        rises = f"rising to {self.lr:g} in {self.warmup}" if self.warmup else f"beginning at {self.lr:g}"
        return f"{self.updates:,} updates, the rate {rises}, then falling to 0"


def main(argv: Sequence[str]) -> None:
    """Print fairseq-train's options of a tuning, a word a line: UPDATES, the training's rate, and a rate."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("updates", metavar="TUNE_UPDATES", type=number("count"))
    parser.add_argument("training_lr", metavar="LR", type=number("positive"))
    parser.add_argument("lr", metavar="TUNE_LR", type=number("positive"), nargs="?")
    raise_errors(parser)
    given = parser.parse_args(argv)
    schedule = TuningSchedule.after(given.training_lr, given.updates)
    if given.lr is not None:
        schedule = TuningSchedule(given.updates, given.lr)
    print("\n".join(words_of(**{name: str(value) for name, value in schedule.options().items()})))


if __name__ == "__main__":
    run_program(main, sys.argv[1:])
