"""The table of many runs: the rate by dev, never by test; means and deviations over seeds."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from dsp_plugin.options.errors import OptionError
from dsp_plugin.records.record import Metric, new_record, save_record
from dsp_plugin.reports.tables.delta_runs import FIELDS, Run, best_by_dev, cells, chosen, read_runs

PROGRAM = Path(__file__).resolve().parents[3] / "scripts" / "delta" / "tools" / "gather_result.py"


def write(folder: Path, rate: float, seed: int, method: str, **scores: float) -> None:
    """The records of one run, as run.py writes them."""
    delta = {"tag": "exp", "few_shot_type": "prompt", "num_k": 16, "learning_rate": rate}
    delta |= {"added": 320, "task_head": 0, "base": 20_000, "bytes": 2494}
    for split, value in scores.items():
        record = new_record(
            "glue-score",
            "SST-2",
            method,
            "cpu",
            seed=seed,
            metrics=[Metric("accuracy", value, "%", subset=split)],
            extra={"delta": delta, "main_metric": "accuracy", "model": "bert"},
        )
        save_record(record, folder / f"{method}-{rate}-{seed}" / split / "results.json")


@pytest.fixture
def folder(tmp_path):
    # the better rate on test is never the better one on dev
    for seed, (one, other) in {13: (70.0, 60.0), 21: (50.0, 55.0), 42: (66.0, 66.0)}.items():
        write(tmp_path, 1e-3, seed, "prompt", dev=one, test=100 - one)
        write(tmp_path, 1e-2, seed, "prompt", dev=other, test=100 - other)
    write(tmp_path, 1e-3, 13, "bias", dev=80.0)
    return tmp_path


def test_the_rate_is_taken_by_dev(folder):
    bias, prompt = chosen(read_runs(folder))
    assert (prompt.task, prompt.method, prompt.tag, prompt.scored) == ("SST-2", "prompt", "exp", "test")
    assert [run.about["learning_rate"] for run in prompt.runs] == [
        1e-3,
        1e-2,
        1e-3,
    ]  # of equal ones the smaller
    assert prompt.rates == (2, 2, 2)
    scores = [30.0, 45.0, 34.0]
    assert prompt.means["accuracy"] == pytest.approx(sum(scores) / 3)
    assert prompt.deviations["accuracy"] == pytest.approx(statistics.stdev(scores))
    assert bias.scored == "dev" and bias.means == {"accuracy": 80.0} and bias.deviations == {}
    shown = cells(prompt)
    assert (
        shown["accuracy"] == "36.33 ± 7.77" and shown["seeds"] == 3 and shown["rates"] == "0.001 0.01 0.001"
    )
    assert (shown["tunable"], shown["share"], shown["bytes"]) == ("320", "1.600 %", "2,494")


def test_conditions(folder):
    runs = read_runs(folder)
    assert [row.method for row in chosen(runs, {"task": "sst2", "method": "bias"})] == ["bias"]
    assert chosen(runs, {"seed": 99}) == []
    (row,) = chosen(runs, {"method": "prompt", "learning_rate": 1e-2})
    assert row.rates == (1, 1, 1)
    with pytest.raises(OptionError, match="condition has 'lr': there are task, method"):
        chosen(runs, {"lr": 1})


def test_dev_chooses_among_rates_and_nothing_else():
    def run(rate, dev, k=16, seed=13, folder="a"):
        about = dict.fromkeys(FIELDS) | {"task": "SST-2", "method": "bias", "seed": seed, "num_k": k}
        return Run(about | {"learning_rate": rate}, folder, dev, {"accuracy": dev}, {"accuracy": 1.0})

    # more examples are another experiment, not a better rate
    few, many = chosen([run(1e-3, 60.0), run(1e-3, 90.0, k=160)])
    assert (few.means, many.means, few.rates) == ({"accuracy": 1.0}, {"accuracy": 1.0}, (1,))
    assert [cells(row)["k"] for row in (few, many)] == [16, 160]
    with pytest.raises(ValueError, match="seed 13, rate 0.001: a and b have other scores"):
        chosen([run(1e-3, 60.0), run(1e-3, 61.0, folder="b")])
    # the same run twice, as where an untrained base was scored with two settings of the rate
    (row,) = chosen([run(None, 60.0), run(None, 60.0, folder="b")])
    assert row.rates == (1,)
    unscored = [Run(run(rate, 0).about, "a", test_metrics={"accuracy": 2.0}) for rate in (1e-3, 1e-4)]
    with pytest.raises(ValueError, match="2 learning rates, and none has a score on dev"):
        chosen(unscored)


def test_a_run_without_a_score_on_dev_is_never_taken_for_another():
    scored, other = Run({"learning_rate": 1e-3}, dev=1.0), Run({"learning_rate": 1e-4})
    assert best_by_dev([other, scored]) is scored


def test_the_program(folder):
    def run(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, PROGRAM, *words], capture_output=True, text=True, cwd=folder)

    done = run("--folder", ".", "--condition", "{'method': 'prompt'}")
    assert done.returncode == 0 and "36.33 ± 7.77" in done.stdout and "| bias" not in done.stdout
    for words, message in (
        (["--folder", "nowhere"], "nowhere"),
        (["--folder", ".", "--condition", "__import__('os')"], "--condition"),
        (["--folder", ".", "--condition", "{'tag': 'other'}"], "none of 7 runs is wanted"),
    ):
        done = run(*words)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
