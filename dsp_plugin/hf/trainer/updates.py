"""How many optimizer updates a training will make, before it begins."""

from __future__ import annotations

import math

from transformers import TrainingArguments

from ...options.errors import OptionError


def training_steps(args: TrainingArguments, num_examples: int) -> int:
    """Count the optimizer updates that the Trainer makes with these arguments on so many examples.

    Raises:
        ValueError: no example.
        OptionError: `dataloader_drop_last` leaves no batch.
    """
    if num_examples < 1 and args.max_steps <= 0:
        raise ValueError("there is no example to train on")
    rounded = math.floor if args.dataloader_drop_last else math.ceil
    per_process = rounded(rounded(num_examples / args.train_batch_size) / args.world_size)
    if num_examples > 0 and not per_process:
        reason = (
            f"leaves no batch: {num_examples} examples are less than {args.train_batch_size} for each of "
            f"{args.world_size} process(es); leave it out, or make {{}} smaller"
        )
        raise OptionError("dataloader_drop_last", reason, "per_device_train_batch_size")
    if args.max_steps > 0:
        return args.max_steps
    updates = max(math.ceil(per_process / args.gradient_accumulation_steps), 1)
    return math.ceil(args.num_train_epochs * updates)
