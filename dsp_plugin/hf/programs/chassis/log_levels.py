"""What a program on Transformers prints beside its own lines."""

from __future__ import annotations

import logging

from transformers import TrainingArguments
from transformers.utils import logging as hf_logging

from .parsing import say


def log_levels(args: TrainingArguments) -> None:
    """Show the Trainer's own messages as `--log_level` asks; our data readers' warnings always."""
    ours = logging.getLogger("dsp_plugin")
    # none for all loggers: the hub's and datasets' have their own, and would print twice
    if not ours.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s | %(message)s"))
        ours.addHandler(handler)
    if args.device.type == "cpu":
        # the Trainer's default, which torch warns of where there is no GPU
        args.dataloader_pin_memory = False
        if args.fp16:
            say(
                "--fp16 is for GPUs: here is none, and this run is in single precision (--bf16 --use_cpu "
                "works on a CPU)"
            )
    if args.log_level == "passive":
        hf_logging.set_verbosity_warning()
    else:
        hf_logging.set_verbosity(args.get_process_log_level())
