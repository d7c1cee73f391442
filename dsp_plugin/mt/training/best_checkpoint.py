"""What fairseq remembers of validations: the best score so far, and how many were no better."""

from __future__ import annotations

from fairseq import checkpoint_utils

from .finished import restore_patience


def forget_best() -> None:
    """Let the next validation be the best so far, whatever came before it; early stopping begins anew.

    fairseq remembers in an attribute of the function that saves, and writes `checkpoint_best.pt` again as
    soon as there is none.
    """
    if hasattr(checkpoint_utils.save_checkpoint, "best"):
        del checkpoint_utils.save_checkpoint.best
    restore_patience(None)
