"""How sure is a difference between two runs? Paired bootstrap intervals from the answers to each example.

Examples are drawn with replacement, the same for both runs and for all seeds, so that an interval says what
another development set of this kind might give, and nothing of other seeds. Efron & Tibshirani (1993),
chapter 13: percentiles; Koehn (2004): paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dsp_plugin.records.agreement import METRICS, order_of, spearmanr
from dsp_plugin.records.answers import Answers, load_answers
from dsp_plugin.records.record import Record
from dsp_plugin.reports.tables.dsee import LEVEL, SAMPLES, difference_text

SEED = 12345


class Interval(NamedTuple):
    """A difference, and between what it lies in LEVEL percent of the resamples."""

    difference: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval allows to speak of a difference."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return difference_text(*self)


def paired_interval(metric: str, pairs: Sequence[tuple[Answers, Answers]]) -> Interval:
    """Work out by how many points of 100 the first run of each pair is above the second, averaged over pairs.

    Args:
        metric: a name in `agreement.METRICS`.
        pairs: (run, reference) of each seed, all on the same examples.

    Returns:
        equal numbers at equal calls: the generator has its own seed.

    Raises:
        ValueError: no pair, another metric, or labels that differ.
    """
    if metric not in METRICS:
        raise ValueError(f"{metric}: no such metric of answers; there are {', '.join(METRICS)}")
    if not pairs:
        raise ValueError("there are no pairs of runs")
    labels = pairs[0][0].labels
    if any(one.labels != labels for pair in pairs for one in pair):
        raise ValueError("the runs were scored against other labels")
    prepare = order_of if metric == spearmanr.__name__ else np.asarray
    true, score = prepare(labels), METRICS[metric]
    said = [tuple(prepare(one.answers) for one in pair) for pair in pairs]

    def difference(rows: np.ndarray | slice) -> float:
        found = [score(true[rows], one[rows]) - score(true[rows], other[rows]) for one, other in said]
        return 100.0 * float(np.mean(found))

    generator = np.random.default_rng(SEED)
    drawn = [difference(generator.integers(len(true), size=len(true))) for _ in range(SAMPLES)]
    outside = (100.0 - LEVEL) / 2
    low, high = np.percentile(drawn, [outside, 100.0 - outside])
    return Interval(difference(slice(None)), float(low), float(high))


def differences(
    found: Iterable[tuple[Path, Record]], metric: str, subset: str, reference: str
) -> tuple[dict[str, Interval], list[str]]:
    """Compare each method of one setting with `reference`, where both have answers beside their records.

    Args:
        found: records with their paths. metric, subset: what is compared.

    Returns:
        method -> interval, over the seeds that both have; and a line on each method whose interval is of
        fewer seeds than it was run with, or that has none because answers are damaged or of other labels.
    """
    runs: dict[str, dict[int | None, tuple[Path, Record]]] = {}
    for path, record in found:
        if record.metric(metric, subset) is not None:
            runs.setdefault(record.method, {})[record.seed] = (path, record)
    base, notes = runs.pop(reference, {}), []
    made: dict[str, Interval] = {}
    for method, seeded in runs.items():
        try:
            both = [seed for seed in seeded if seed in base and seeded[seed][1].data == base[seed][1].data]
            loaded = [[load_answers(p.parent, r) for p, r in (seeded[seed], base[seed])] for seed in both]
            pairs = [(one, other) for one, other in loaded if one is not None and other is not None]
            if not pairs:
                continue
            made[method] = paired_interval(metric, pairs)
        except (OSError, ValueError) as error:
            notes.append(f"{method}: no interval, because {error}")
            continue
        if len(pairs) < len(seeded):
            notes.append(f"{method}: its difference is of {len(pairs)} of {len(seeded)} seeds")
    return made, notes
