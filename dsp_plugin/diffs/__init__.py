"""Sparse diffs: train, project, fix the mask, pack, apply, revert, serve. Pure torch and safetensors."""

from .packs.layers import frozen_names, layer_numbers, penalties_by_layer
from .packs.pack import DiffPack
from .projection import Difference, count_of, project
from .serving.bank import DiffBank
from .sparse import SparseDiff
from .training.fixmask import FixMaskAdamW
from .training.groups import by_neuron, by_tensor
from .training.optimizer import DiffAdamW
from .training.passes.concrete import StretchedConcrete
from .training.vector import DiffVector

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
