"""The order of the training examples in an epoch, as a function of seed and epoch alone."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Sampler
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from .sealed_checkpoints import SealedCheckpoints


class EpochOrder(SealedCheckpoints):
    """What an exact resume needs: the checkpoint that was written, and the order of the examples in it.

    Tells the Trainer's sampler the epoch, so that a run resumed inside an epoch goes on in that epoch's
    order.

    Under `train_sampling_strategy="group_by_length"` the Trainer's sampler draws from torch's own generator:
    a resumed run, or another process, draws another order. Here it gets a generator, seeded with (data seed +
    epoch) as each epoch begins. The default's random sampler does that by itself, but from whatever torch was
    last seeded with, and Accelerate does not tell it the epoch where it skips batches in one of several
    processes.
    """

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        sampler, epoch = _sampler_of(train_dataloader), int(state.epoch or 0)
        seed = args.seed if args.data_seed is None else args.data_seed
        if isinstance(sampler, LengthGroupedSampler):
            if sampler.generator is None:
                sampler.generator = torch.Generator()
            sampler.generator.manual_seed(seed + epoch)
        elif isinstance(sampler, SeedableRandomSampler):
            sampler.initial_seed = seed  # else what torch was last seeded with
            sampler.set_epoch(epoch)


def _sampler_of(loader: Any) -> Sampler | None:
    """Find the sampler of examples below Accelerate's of batches; a loader that skips has the same object."""
    batches = getattr(loader, "batch_sampler", None)
    while hasattr(batches, "batch_sampler"):
        batches = batches.batch_sampler
    return getattr(batches, "sampler", None)
