"""Delta-Tuning on Transformers: prompt, BitFit, adapter and the house's own updates, in any combination.

add_delta(model, "prompt,adapter")                 # a stage: train it as any model
add_delta(model, "bias")                           # the next one; the first two stay active, and frozen
save_delta(model, "task.delta.safetensors")
"""

from .account import delta_account
from .adding import add_delta, disable, enable
from .bank import DeltaBank
from .checkpoints import DeltaTrainer
from .families import Places, register_family
from .files import load_delta, open_delta, save_delta
from .state import Delta, delta_of, has_delta

__all__ = [
    "Delta",
    "DeltaBank",
    "DeltaTrainer",
    "Places",
    "add_delta",
    "delta_account",
    "delta_of",
    "disable",
    "enable",
    "has_delta",
    "load_delta",
    "open_delta",
    "register_family",
    "save_delta",
]
