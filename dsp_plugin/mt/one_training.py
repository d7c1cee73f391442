"""One fairseq training at a time in a `--save-dir`."""

import functools
import weakref
from typing import List

from ..reports.claim import claim, give_back

_HELD: List[weakref.finalize] = []  # each ends a claim, once


def one_training_a_folder() -> None:
    """Let `fairseq-train` claim its `--save-dir` before it reads or writes a checkpoint there. Safe to call again.

    Two trainings in one folder write over each other's checkpoints, and a restart goes on from a mixture. The first process
    of a training claims; the folder is free again when its trainer is gone, when `give_back_folders` is called, and when the
    process ends.

    Raises (where the checkpoint is looked for):
        ValueError: another training is at work there.
    """
    from fairseq import checkpoint_utils

    stock = checkpoint_utils.load_checkpoint
    if getattr(stock, "claims", False):
        return

    @functools.wraps(stock)
    def load_checkpoint(cfg, trainer, **passthrough_args):
        if trainer.is_data_parallel_master and not cfg.no_save:
            _HELD.append(weakref.finalize(trainer, give_back, claim("--save-dir", cfg.save_dir)))
        return stock(cfg, trainer, **passthrough_args)

    load_checkpoint.claims = True
    checkpoint_utils.load_checkpoint = load_checkpoint


def give_back_folders() -> None:
    """Ends the claims of the trainings of this process."""
    while _HELD:
        _HELD.pop()()
