"""GLUE's metrics against formulas written out here; prediction files."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("sklearn")

from dsp_plugin.hf.data.glue import TASKS, answers, compute_metrics, find_task, score, write_predictions

rng = np.random.default_rng(3)
LABELS = rng.integers(0, 2, 200)
PREDICTIONS = np.where(rng.random(200) < 0.7, LABELS, 1 - LABELS)
TRUE = rng.uniform(0, 5, 80).round(1)  # rounded: some are equal
GUESSED = TRUE + rng.normal(0, 1.5, 80).round(1)


def counts(predictions, labels):
    pairs = list(zip(predictions.tolist(), labels.tolist()))
    return (pairs.count((1, 1)), pairs.count((1, 0)), pairs.count((0, 1)), pairs.count((0, 0)))


def pearson(a, b):
    a, b = np.asarray(a, float), np.asarray(b, float)
    return float(
        ((a - a.mean()) * (b - b.mean())).sum()
        / math.sqrt(((a - a.mean()) ** 2).sum() * ((b - b.mean()) ** 2).sum())
    )


def ranks(values):
    """Mean rank of equal values."""
    return [
        (sum(other < value for other in values) + sum(other <= value for other in values) + 1) / 2
        for value in values
    ]


def test_accuracy_f1_matthews():
    tp, fp, fn, tn = counts(PREDICTIONS, LABELS)
    accuracy, f1 = (tp + tn) / 200, tp / (tp + (fp + fn) / 2)
    matthews = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert score(find_task("cola"), PREDICTIONS, LABELS) == {"matthews_correlation": pytest.approx(matthews)}
    for name in ("mrpc", "qqp"):
        assert score(find_task(name), PREDICTIONS, LABELS) == {
            "accuracy": pytest.approx(accuracy),
            "f1": pytest.approx(f1),
        }
    for name in ("sst2", "mnli", "qnli", "rte", "wnli"):
        assert score(find_task(name), PREDICTIONS, LABELS) == {"accuracy": pytest.approx(accuracy)}


def test_pearson_and_spearman():
    expected = {"pearson": pearson(GUESSED, TRUE), "spearmanr": pearson(ranks(GUESSED), ranks(TRUE))}
    assert score(find_task("stsb"), GUESSED, TRUE) == pytest.approx(expected)
    assert expected["pearson"] != pytest.approx(expected["spearmanr"], abs=1e-3)


@pytest.mark.filterwarnings("error")
def test_predictions_that_are_all_the_same_score_zero():
    assert score(find_task("cola"), np.ones(200, int), LABELS) == {"matthews_correlation": 0.0}
    assert score(find_task("mrpc"), np.zeros(200, int), LABELS)["f1"] == 0.0
    assert score(find_task("stsb"), np.full(80, 2.5), TRUE) == {"pearson": 0.0, "spearmanr": 0.0}


def test_the_main_metric_is_one_of_the_metrics():
    for task in TASKS.values():
        assert task.main_metric in task.metrics
    mains = {task.folder: task.main_metric for task in TASKS.values() if task.main_metric != "accuracy"}
    assert mains == {"CoLA": "matthews_correlation", "MRPC": "f1", "QQP": "f1", "STS-B": "spearmanr"}


def test_as_the_trainer_calls_it():
    logits = np.stack([1.0 - PREDICTIONS, PREDICTIONS], axis=1).astype(np.float32)
    accuracy = float((PREDICTIONS == LABELS).mean())
    for predictions in (logits, (logits, np.zeros((200, 4, 8)))):  # a model can have further outputs
        found = compute_metrics(find_task("rte"))(SimpleNamespace(predictions=predictions, label_ids=LABELS))
        assert found == {"accuracy": pytest.approx(accuracy)}
    found = compute_metrics(find_task("stsb"))(SimpleNamespace(predictions=TRUE[:, None], label_ids=TRUE))
    assert found == pytest.approx({"pearson": 1.0, "spearmanr": 1.0})


def test_outputs_that_cannot_be_scored():
    with pytest.raises(ValueError, match=r"MNLI: outputs of shape \[4, 2\], \[rows, 3\]"):
        answers(find_task("mnli"), np.zeros((4, 2)))
    broken = np.zeros((4, 3))
    broken[1, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 4 outputs are not finite"):
        answers(find_task("mnli"), broken)
    with pytest.raises(ValueError, match="3 predictions for 2 labels"):
        score(find_task("rte"), [0, 1, 1], [0, 1])
    with pytest.raises(ValueError, match="0 predictions"):
        score(find_task("rte"), [], [])


@pytest.mark.parametrize(
    ("name", "split", "file", "predictions", "lines"),
    [
        ("mnli", "test_mismatched", "MNLI-mm.tsv", [2, 0], ["0\tcontradiction", "1\tentailment"]),
        ("mnli", "diagnostic", "AX.tsv", [1], ["0\tneutral"]),
        ("qnli", "test", "QNLI.tsv", [1, 0], ["0\tnot_entailment", "1\tentailment"]),
        ("cola", "test", "CoLA.tsv", [1, 0], ["0\t1", "1\t0"]),
        ("stsb", "test", "STS-B.tsv", [5.7, -0.2, 2.34567], ["0\t5.000", "1\t0.000", "2\t2.346"]),
    ],
)
def test_prediction_files(tmp_path, name, split, file, predictions, lines):
    write_predictions(
        tmp_path / "out", find_task(name), split, predictions, [str(i) for i in range(len(predictions))]
    )
    assert (tmp_path / "out" / file).read_text() == "\n".join(["index\tprediction", *lines]) + "\n"


def test_prediction_files_are_of_whole_test_sets(tmp_path):
    with pytest.raises(ValueError, match="RTE: dev is no test set; there are test"):
        write_predictions(tmp_path, find_task("rte"), "dev", [0], ["0"])
    with pytest.raises(ValueError, match="1 predictions for 2 rows"):
        write_predictions(tmp_path, find_task("rte"), "test", [0], ["0", "1"])
    assert not list(tmp_path.iterdir())


def test_scores_in_numpy_are_those_of_the_programs():
    """What comparisons in pairs score a thousand times by, also where a correlation is undefined."""
    from dsp_plugin.records.agreement import METRICS, order_of

    for name in ("mrpc", "cola", "stsb"):
        numbers = (GUESSED, TRUE) if name == "stsb" else (PREDICTIONS, LABELS)
        for said, true in (numbers, (numbers[0] * 0, numbers[1]), (numbers[1], numbers[1]), numbers[::-1]):
            for metric, value in score(find_task(name), said, true).items():
                assert METRICS[metric](true, said) == pytest.approx(value, abs=1e-12), (name, metric)
                if metric == "spearmanr":
                    assert METRICS[metric](order_of(true), order_of(said)) == pytest.approx(value, abs=1e-12)
