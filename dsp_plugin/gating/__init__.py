"""Which heads live: relaxed top-K, straight-through, fixed masks. Pure torch; knows no host."""

from .gates import FixedGates, HeadGates
from .head_map import AttentionBlock, HeadMap
from .relaxed_topk import gumbel_noise, hard_topk, relaxed_topk, straight_through_topk
from .schedule import ExponentialCooling, constant_temperature
from .subset import RelaxedSubset, StraightThroughSubset, check_budget
from .switchboard import Switchboard

__all__ = [
    "AttentionBlock",
    "ExponentialCooling",
    "FixedGates",
    "HeadGates",
    "HeadMap",
    "RelaxedSubset",
    "StraightThroughSubset",
    "Switchboard",
    "check_budget",
    "constant_temperature",
    "gumbel_noise",
    "hard_topk",
    "relaxed_topk",
    "straight_through_topk",
]
