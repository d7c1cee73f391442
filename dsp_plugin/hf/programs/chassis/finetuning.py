"""Plain finetuning as a program: `run_glue.py`, `run_squad.py` and `run_clm.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .system import System
from .train import read_options
from .tuning import TuningArguments, train_and_tune


def finetune(doc: str, data: type, argv: Sequence[str]) -> dict[str, Any]:
    """Run the program. Arguments as `read_options`, result as `train_and_tune`."""
    setup, (tuning,) = read_options(doc, data, (TuningArguments,), argv)
    return train_and_tune(System(setup), tuning)
