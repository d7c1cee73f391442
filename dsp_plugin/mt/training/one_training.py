"""One fairseq training at a time in a `--save-dir`."""

import functools
import tempfile
import weakref
from typing import Any

from ...records.files.claim import claim, give_back

_CLAIMED: list[Any] = []  # by a training that has no trainer yet
_HELD: list[weakref.finalize] = []  # each ends the claim of a trainer, once


def one_training_a_folder() -> None:
    """Let `fairseq-train` claim its `--save-dir` where it looks whether it can write there. Safe to call
    again.

    Two trainings in one folder write over each other's checkpoints, and a restart goes on from a mixture. The
    first process of a training claims; the folder is free again when its trainer is gone, when
    `give_back_folders` is called, and when the process ends.

    Raises (from fairseq, before it reads data):
        ValueError: another training is at work there, or there is no folder. OSError: it cannot be written.
    """
    from fairseq import checkpoint_utils

    stock = checkpoint_utils.load_checkpoint
    if getattr(stock, "claims", False):
        return

    def verify_checkpoint_directory(save_dir: str) -> None:
        _CLAIMED.append(claim("--save-dir", save_dir))
        # fairseq's own trial is a file `dummy`, whoever has one there
        with tempfile.TemporaryFile(dir=save_dir):
            pass

    @functools.wraps(stock)
    def load_checkpoint(cfg, trainer, **passthrough_args):
        while _CLAIMED:
            _HELD.append(weakref.finalize(trainer, give_back, _CLAIMED.pop()))
        return stock(cfg, trainer, **passthrough_args)

    load_checkpoint.claims = True
    checkpoint_utils.load_checkpoint = load_checkpoint
    checkpoint_utils.verify_checkpoint_directory = verify_checkpoint_directory


def give_back_folders() -> None:
    """Ends the claims of the trainings of this process."""
    while _HELD:
        _HELD.pop()()
    while _CLAIMED:
        give_back(_CLAIMED.pop())
