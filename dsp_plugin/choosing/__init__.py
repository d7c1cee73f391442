"""Which units stay under a cost: measured costs, scores, the exact choice, rescaling. torch and NumPy."""

from .cost_tables import CostTable, counts_to_measure, monotone
from .fisher import FisherScores
from .knapsack import Choice, choose_units
from .rearrangement import rearranged
from .rescaling import GramMatrix, rescaling_factors
from .rounds import Round, nearest, next_bound

__all__ = [
    "Choice",
    "CostTable",
    "FisherScores",
    "GramMatrix",
    "Round",
    "choose_units",
    "counts_to_measure",
    "monotone",
    "nearest",
    "next_bound",
    "rearranged",
    "rescaling_factors",
]
