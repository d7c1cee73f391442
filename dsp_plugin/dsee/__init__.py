"""DSEE: an update of low rank plus a few entries on top of pruned weights. Pure torch and safetensors."""

from .artefact import DseeFile, Update
from .merge import merged_weight
from .scores import Matrix, head_scores, weight_scores
from .supports import find_support
from .update import LowRankSparse, add_update
from .weight_masks import PackedMask, cubic_ratio, prune_group

__all__ = [
    "DseeFile",
    "LowRankSparse",
    "Matrix",
    "PackedMask",
    "Update",
    "add_update",
    "cubic_ratio",
    "find_support",
    "head_scores",
    "merged_weight",
    "prune_group",
    "weight_scores",
]
