"""DSEE on Transformers: PEFT's LoRA with a few sparse entries beside it, on weights that are pruned.

dsee = add_dsee(model, rank=16, num_sparse=64)     # stage I: train it as any model
prune_weights(model, 0.2, 0.2)                     # stage II, or prune_units(model, prune_heads_num=3)
...                                                # stage III: train on
save_dsee(model, "task.dsee.safetensors")
"""

from .adding import add_dsee
from .files import load_dsee, open_dsee, save_dsee
from .lora_folder import save_lora
from .merging import mask_updates, merge_dsee
from .state import Dsee, dsee_of, has_dsee, kept_of
from .units import prune_units, score_heads
from .weights import GradualPruning, prune_weights

__all__ = [
    "Dsee",
    "GradualPruning",
    "add_dsee",
    "dsee_of",
    "has_dsee",
    "kept_of",
    "load_dsee",
    "mask_updates",
    "merge_dsee",
    "open_dsee",
    "prune_units",
    "prune_weights",
    "save_dsee",
    "save_lora",
    "score_heads",
]
