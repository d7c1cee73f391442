"""Sparse diffs: train, project, fix the mask, pack, apply, revert, serve. Pure torch and safetensors; knows no host."""

from .bank import DiffBank
from .concrete import StretchedConcrete
from .fixmask import FixMaskAdamW
from .groups import by_neuron, by_tensor
from .layers import frozen_names, layer_numbers, penalties_by_layer
from .optimizer import DiffAdamW
from .pack import DiffPack
from .projection import Difference, count_of, project
from .sparse import SparseDiff
from .vector import DiffVector

__all__ = [
    "DiffAdamW",
    "DiffBank",
    "DiffPack",
    "DiffVector",
    "Difference",
    "FixMaskAdamW",
    "SparseDiff",
    "StretchedConcrete",
    "by_neuron",
    "by_tensor",
    "count_of",
    "frozen_names",
    "layer_numbers",
    "penalties_by_layer",
    "project",
]
