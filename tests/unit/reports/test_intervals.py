"""Paired bootstrap intervals: by hand where they can be, on runs that are the same, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from dsp_plugin.records.answers import Answers, save_answers
from dsp_plugin.records.record import Metric, Record
from dsp_plugin.reports.intervals import differences, paired_interval

rng = np.random.default_rng(5)
LABELS = rng.integers(0, 2, 400).tolist()


def answers(right: float, seed: int) -> Answers:
    flips = np.random.default_rng(seed).random(len(LABELS)) >= right
    return Answers(LABELS, [1 - label if flip else label for label, flip in zip(LABELS, flips)])


def test_the_interval_of_an_accuracy_is_that_of_its_formula():
    one, other = answers(0.9, 1), answers(0.7, 2)
    each = np.array([a == t for t, a in zip(*one)], float) - [a == t for t, a in zip(*other)]
    found = paired_interval("accuracy", [(one, other)])
    error = 100 * each.std() / len(each) ** 0.5
    assert found.difference == pytest.approx(100 * each.mean())
    assert found.low == pytest.approx(found.difference - 1.96 * error, abs=0.4)
    assert found.high == pytest.approx(found.difference + 1.96 * error, abs=0.4)
    assert found.excludes_zero and found == paired_interval("accuracy", [(one, other)])
    assert str(found) == f"{found.difference:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews_correlation", "spearmanr"])
def test_the_same_answers_differ_by_nothing(metric):
    one = answers(0.8, 3)
    assert paired_interval(metric, [(one, one)] * 2) == (0, 0, 0)
    here, there = ([1 - t if n % 8 == rest else t for n, t in enumerate(LABELS)] for rest in (0, 5))
    found = paired_interval(metric, [(Answers(LABELS, here), Answers(LABELS, there))])  # 50 wrong each
    assert found.low < 0 < found.high and not found.excludes_zero


def test_seeds_are_averaged_on_the_same_examples():
    pairs = [(answers(0.9, 1), answers(0.8, 2)), (answers(0.8, 2), answers(0.9, 1))]
    assert paired_interval("accuracy", pairs) == (0, 0, 0)


def test_what_cannot_be_compared():
    one = answers(0.9, 1)
    with pytest.raises(ValueError, match="against other labels"):
        paired_interval("accuracy", [(one, Answers(LABELS[::-1], one.answers))])
    with pytest.raises(ValueError, match="BLEU: no such metric of answers; there are accuracy"):
        paired_interval("BLEU", [(one, one)])
    with pytest.raises(ValueError, match="no pairs"):
        paired_interval("accuracy", [])


def test_runs_of_one_setting(tmp_path):
    found = []
    for method, right, seeds in (("lora", 0.9, (1, 2)), ("dsee", 0.8, (1, 2, 3)), ("plain", 0.8, (1,))):
        for seed in seeds:
            said = answers(right, seed + len(method))
            share = 100 * float(np.mean([a == t for t, a in zip(*said)]))
            metrics = [Metric("accuracy", share, "%", subset="dev")]
            path = tmp_path / f"{method}{seed}" / "results.json"
            found.append((path, Record("glue-score", "SST-2", method, seed=seed, data="x", metrics=metrics)))
            if method != "plain":
                path.parent.mkdir()
                save_answers(path.parent, *said)
    made, notes = differences(found, "accuracy", "dev", "lora")
    assert list(made) == ["dsee"] and notes == ["dsee: its difference is of 2 of 3 seeds"]
    scores = {(r.method, r.seed): r.metrics[0].value for _, r in found}
    mean = np.mean([scores["dsee", seed] - scores["lora", seed] for seed in (1, 2)])
    assert made["dsee"].difference == pytest.approx(mean)
    found[2][1].metrics[0].value -= 1.0  # the record of other answers
    made, notes = differences(found, "accuracy", "dev", "lora")
    assert not made and "dsee: no interval, because" in notes[0] and "its answers give" in notes[0]
