"""DSEE: an update of low rank plus a few entries on top of pruned weights. Pure torch and safetensors."""

from .scores import head_scores, weight_scores
from .supports import find_support
from .weight_masks import PackedMask, cubic_ratio, prune_group

__all__ = ["PackedMask", "cubic_ratio", "find_support", "head_scores", "prune_group", "weight_scores"]
