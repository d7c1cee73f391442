"""Words for the halves of a method that are missing, and for what is to be done about each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What to do about each half, in words that hold anywhere; a shell may say it in those of its host.
ADVICE = {
    "optimizer": "give the optimizer all parameters of the model that learn, the scores among them",
    "rate": "put the scores into a parameter group of their own that has these, and keep schedules "
    "away from it",
    "penalty": "add the switchboard's penalty() to the loss of every update",
    "updates": "call the switchboard's set_num_updates() with the number of updates made before every one",
    "forward": "call the model that carries the gates, in training mode, with an attention that knows of "
    "them",
    "motion": "give the parameter group of the scores a learning rate of its own",
    "ranking": "install a ranking before training",
    "blocks": "call the whole model in training, or put gates only on the part that is trained",
    "draw": "let the checkpoints be torch's, with use_reentrant=False, or restore the random numbers as "
    "torch's do",
}


def in_words(settings: Mapping[str, Any]) -> str:
    """Say the settings of a parameter group: a learning rate, a weight decay or both."""
    words = {"lr": "a learning rate of", "weight_decay": "a weight decay of"}
    return " and ".join(f"{words[name]} {float(value):g}" for name, value in settings.items())
