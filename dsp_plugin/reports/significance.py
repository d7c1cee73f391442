"""Is a run really worse, or better, than the baseline? Paired bootstrap resampling, by sacreBLEU's own test.

It works from the statistics of each sentence that lie beside the records (see `sentences`), so the
translations are not scored again. Koehn (2004), Statistical Significance Tests for Machine Translation
Evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsp_plugin.records.record import Metric, Record
from dsp_plugin.records.sentences import SENTENCES_NAME, load_statistics
from dsp_plugin.reports.tables.rows import PValue, Setting, comparable_signature, setting_of

SAMPLES = 1000


@dataclass(frozen=True)
class Comparison:
    """One run beside the baseline of the same name, seed and test set.

    Args:
        setting, seed, subset: which run, on what.
        value, baseline: the two scores; `baseline` is None where the run has no counterpart.
        p: None if it could not be tested; then `why` says the reason.
    """

    setting: Setting
    seed: int | None
    metric: str
    subset: str
    value: float
    baseline: float | None = None
    p: float | None = None
    why: str = ""

    @property
    def delta(self) -> float | None:
        """The run's score less the baseline's; None where there is no counterpart."""
        return None if self.baseline is None else self.value - self.baseline


def paired_bootstrap(
    baseline: Sequence[Sequence[int]], systems: Sequence[Sequence[Sequence[int]]]
) -> list[float]:
    """Compute each p against the baseline: how likely so large a difference in BLEU is if there is none.

    Args:
        baseline: [S, 10] statistics of the sentences, see `scores.bleu_statistics`.
        systems: M of the same shape, of the same sentences in the same order.

    Returns:
        M numbers in 1/1001 .. 1. Equal calls give equal numbers: sacreBLEU's seed is fixed (SACREBLEU_SEED).

    Raises:
        ValueError: another number of sentences, or other references.
    """
    from sacrebleu.metrics import BLEU
    from sacrebleu.significance import PairedTest

    class Stored(BLEU):
        """BLEU that is given the statistics in the place of the texts."""

        def __init__(self) -> None:
            super().__init__()
            self.num_refs = 1  # only named in the signature

        def _extract_corpus_statistics(self, hypotheses: Any, references: Any) -> Any:
            return hypotheses

    for statistics in systems:
        if [row[1] for row in statistics] != [row[1] for row in baseline]:  # lengths of the references
            raise ValueError("the sentences have other references")
    named = [(str(number), rows) for number, rows in enumerate([baseline, *systems])]
    _, scores = PairedTest(named, {"BLEU": Stored()}, references=None, test_type="bs", n_samples=SAMPLES)()
    # sacreBLEU counts resamples that differ by more than the two do: of translations that are the same none
    # does, and they would be the surest difference of all
    same = [list(rows) == list(baseline) for rows in systems]
    return [1.0 if one else float(result.p_value) for one, result in zip(same, scores["BLEU"][1:])]


def compare_with_baseline(
    found: Iterable[tuple[Path, Record]], metric: str = "BLEU", baseline: str = "unpruned"
) -> list[Comparison]:
    """Compare every run that is not the baseline with it, in the order of the records.

    The counterpart has the same name, seed and test set, and the method `baseline`: with the same number of
    heads if there is one, else the only one there is. Data and signature must agree.

    Args:
        found: records with their paths (`records.find_records`).
        metric: name of the score; only BLEU can be tested so far, others get a difference without p.
        baseline: a method.
    """
    scores = [(path, record, score) for path, record in found for score in record.metrics]
    scored = [entry for entry in scores if entry[2].name == metric]
    bases = [entry for entry in scored if entry[1].method == baseline]
    results: list[Comparison] = []
    waiting: dict[int, list[tuple[int, list[list[int]]]]] = {}  # baseline -> (place in results, statistics)
    statistics: dict[int, list[list[int]]] = {}
    for path, record, score in scored:
        if record.method == baseline:
            continue
        known = {"metric": metric, "subset": score.subset, "value": score.value}
        place = _counterpart(record, score, bases)
        if place is None:
            why = f"no {baseline} run of this seed"
            results.append(Comparison(setting_of(record), record.seed, **known, why=why))
            continue
        base_path, base, base_score = bases[place]
        known["baseline"] = base_score.value
        why = _difference(record, score, base, base_score)
        if not why:
            try:
                mine = load_statistics(path.parent, score)
                if place not in statistics:
                    statistics[place] = load_statistics(base_path.parent, base_score) or []
                if mine is None or not statistics[place]:
                    why = f"no {SENTENCES_NAME} beside the record{'' if mine is None else f' of {baseline}'}"
                elif [row[1] for row in mine] != [row[1] for row in statistics[place]]:
                    why = "scored against other references"
                else:
                    waiting.setdefault(place, []).append((len(results), mine))
            except (OSError, ValueError) as error:
                why = str(error)
        results.append(Comparison(setting_of(record), record.seed, **known, why=why))
    for place, entries in waiting.items():  # in one go a baseline: its resamples are drawn once
        found_ps = paired_bootstrap(statistics[place], [rows for _, rows in entries])
        for (position, _), p in zip(entries, found_ps):
            results[position] = Comparison(**{**vars(results[position]), "p": p})
    return results


def largest_p(comparisons: Iterable[Comparison]) -> Mapping[tuple[Setting, str, str], PValue]:
    """Map (setting, metric, subset) to the largest p of its seeds, unless a run of them was not tested."""
    grouped: dict[tuple[Setting, str, str], list[float | None]] = {}
    for one in comparisons:
        grouped.setdefault((one.setting, one.metric, one.subset), []).append(one.p)
    return {key: PValue(max(ps)) for key, ps in grouped.items() if None not in ps}


def _counterpart(record: Record, score: Metric, bases: Sequence[tuple[Path, Record, Metric]]) -> int | None:
    wanted = (record.name, record.seed, score.subset)
    places = [i for i, (_, base, other) in enumerate(bases) if (base.name, base.seed, other.subset) == wanted]
    same = [i for i in places if setting_of(bases[i][1]).kept == setting_of(record).kept]
    if same or len({setting_of(bases[i][1]).kept for i in places}) == 1:
        return (same or places)[0]
    return None


def _difference(record: Record, score: Metric, base: Record, base_score: Metric) -> str:
    if record.data != base.data:
        return "scored on other data"
    if comparable_signature(score.signature) != comparable_signature(base_score.signature):
        return "scored with another signature"
    return ""
