"""Which heads live: relaxed, exact and straight-through top-K, concrete gates, fixed masks. Pure torch."""

from .budget import BudgetOptions, HeadBudget, best_of_blocks, check_budget, parse_heads_per_kind
from .cost_budget import CostBudget
from .gates import FixedGates, HeadGates
from .handshake.handshake import Handshake, HandshakeError
from .head_map import AttentionBlock, HeadMap
from .head_scores import HeadScores, RankedGates
from .importance.head_importance import HeadImportance, measure_importance, normalised
from .importance.ranking_options import RANKINGS, RankingOptions
from .importance.removal_order import (
    next_removals,
    path_down,
    plan_removal,
    random_ranking,
    ranking_of_removal,
    remove_stepwise,
    stops,
    weight_magnitude,
)
from .importance.start import spread, starting_ranking
from .importance.sweep import Step, Sweep
from .methods.almost_sure import AlmostSureGates
from .methods.closing_options import ClosingOptions
from .methods.concrete import ConcreteGates
from .methods.exact import ExactSubset
from .methods.lagrangian import LagrangianGates
from .methods.recipe import SCHEDULES, STARTS, Setting, derive, schedule_of
from .methods.rounds import Rounds
from .methods.subset import RelaxedSubset, StraightThroughSubset
from .methods.subset_options import SubsetOptions
from .sampling.exact_subset import exact_subset
from .sampling.relaxed_topk import gumbel_noise, hard_topk, relaxed_topk, straight_through_topk
from .sampling.schedule import ExponentialCooling, ScoreRate, constant_temperature
from .switchboard import Switchboard

__all__ = [
    "RANKINGS",
    "AlmostSureGates",
    "AttentionBlock",
    "BudgetOptions",
    "ClosingOptions",
    "ConcreteGates",
    "CostBudget",
    "ExactSubset",
    "ExponentialCooling",
    "FixedGates",
    "Handshake",
    "HandshakeError",
    "HeadBudget",
    "HeadGates",
    "HeadImportance",
    "measure_importance",
    "HeadMap",
    "HeadScores",
    "LagrangianGates",
    "RankedGates",
    "RankingOptions",
    "RelaxedSubset",
    "Rounds",
    "SCHEDULES",
    "STARTS",
    "ScoreRate",
    "Setting",
    "Step",
    "StraightThroughSubset",
    "SubsetOptions",
    "Sweep",
    "Switchboard",
    "best_of_blocks",
    "check_budget",
    "constant_temperature",
    "derive",
    "exact_subset",
    "gumbel_noise",
    "hard_topk",
    "next_removals",
    "normalised",
    "parse_heads_per_kind",
    "path_down",
    "plan_removal",
    "random_ranking",
    "ranking_of_removal",
    "relaxed_topk",
    "remove_stepwise",
    "schedule_of",
    "spread",
    "starting_ranking",
    "stops",
    "straight_through_topk",
    "weight_magnitude",
]
