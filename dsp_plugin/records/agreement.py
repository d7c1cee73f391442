"""How well answers agree with labels, as GLUE scores it, in NumPy: for what is scored many times over.

The programs score by scikit-learn and SciPy; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

Numbers = Sequence[float] | np.ndarray


def accuracy(labels: Numbers, answers: Numbers) -> float:
    """Return the share of answers that are the label."""
    return float(np.mean(np.asarray(labels) == np.asarray(answers)))


def f1(labels: Numbers, answers: Numbers) -> float:
    """Return F1 of class 1; 0 where neither labels nor answers have it."""
    true, said = np.asarray(labels) == 1, np.asarray(answers) == 1
    both = int(true.sum() + said.sum())
    return 2 * int((true & said).sum()) / both if both else 0.0


def matthews_correlation(labels: Numbers, answers: Numbers) -> float:
    """Return Matthews' correlation of two classes, 0 and 1; 0 where either has one class alone."""
    return pearson(np.asarray(labels) == 1, np.asarray(answers) == 1)


def pearson(labels: Numbers, answers: Numbers) -> float:
    """Return the correlation; 0 where either is all the same."""
    one, other = (np.asarray(values, dtype=np.float64) for values in (labels, answers))
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / scale if scale else 0.0


def spearmanr(labels: Numbers, answers: Numbers) -> float:
    """Return the correlation of the ranks, equal numbers at their mean rank; 0 as in `pearson`."""
    return pearson(_ranks(labels), _ranks(answers))


def order_of(values: Numbers) -> np.ndarray:
    """Return the place of each value among the different ones: of the same ranks, and ranked faster."""
    return np.unique(np.asarray(values), return_inverse=True)[1]


def _ranks(values: Numbers) -> np.ndarray:
    places = np.asarray(values)
    if places.dtype.kind not in "iu" or places.min() < 0:
        places = order_of(places)
    counts = np.bincount(places)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


METRICS: Mapping[str, Callable[[Numbers, Numbers], float]] = {
    one.__name__: one for one in (accuracy, f1, matthews_correlation, pearson, spearmanr)
}
