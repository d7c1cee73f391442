"""The heads of one trained model: what runs wait for, which model they are of, and the tables."""

from __future__ import annotations

import os
import random
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pipeline_runs import ROOT

from dsp_plugin.gating import AttentionBlock, HeadMap
from dsp_plugin.gating.importance.start import MOST_STEPS, SAMPLES
from dsp_plugin.gating.methods.recipe import Setting, derive
from dsp_plugin.records.bleu import bleu, bleu_statistics
from dsp_plugin.records.record import Metric, Record, save_record
from dsp_plugin.records.sentences import save_sentences
from pipelines.plans.pipelined import PipelinedPlan

REFERENCES = [f"a man sits on chair {i} and {i % 7} dogs run over the green grass ." for i in range(40)]


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)

    def make(**config):
        places = {name: str(tmp_path / name) for name in ("runs", "results")}
        return PipelinedPlan({"python": sys.executable, **places, **config})

    return make


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")


def settings_of(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words[1:-1])


def scored(plan: PipelinedPlan, run, name: str, share: float, seed: int = 0) -> None:
    """Write a record and the statistics of its sentences: the references, that share of words replaced."""
    drawn = random.Random(seed)
    lines = [
        " ".join("x" if drawn.random() < share else word for word in line.split()) for line in REFERENCES
    ]
    score = bleu(lines, REFERENCES)
    metric = Metric("BLEU", score["value"], "", score["signature"], name.removesuffix("-tuned"))
    folder = plan.record(run, name).parent
    save_record(Record("mt-bleu", "multi30k-trained", run.method, seed=run.seed, metrics=[metric]), folder)
    statistics = bleu_statistics(lines, REFERENCES)
    save_sentences(folder, {"metric": "BLEU", "signature": score["signature"], "statistics": statistics})


def test_all_choices_of_all_seeds_start_from_one_model(plan, tmp_path):
    made = plan()
    assert {run.seed for run in made.runs} == {1, 2} and len(made.runs) == 1 + 2 * (1 + 2 * 7)
    base = str(tmp_path / "runs/trained/unpruned-seed1/results.json")
    for run in made.runs[1:]:
        assert made.source_of(run) == [base], run.name
        given = settings_of(made.command(run, "tune"))
        assert given["UNPRUNED"].endswith("runs/trained/unpruned-seed1/checkpoint_best.pt")
        assert given["SEED"] == str(run.seed) and given["TUNE_UPDATES"] == "500"
        assert given["MAX_TOKENS"] == "1024" and (run.budget is None or given["K"] == str(run.budget))
    tuned = made.known["trained/unpruned_tuned-seed2"]
    assert made.scored(tuned) == ["test-tuned", "test1-tuned"] and made.tunable(tuned) == [base]
    assert made.scored(made.runs[0]) == ["test", "test1"]  # of the base: it is tuned under the other name
    assert settings_of(made.command(made.runs[0], "train"))["EPOCHS"] == "10"
    assert settings_of(plan(trained_epochs=3).command(made.runs[0], "train"))["EPOCHS"] == "3"


def test_one_sweep_a_seed_serves_all_numbers_of_heads(plan, tmp_path):
    made = plan()
    for seed in (1, 2):
        sweep = made.known[f"trained/michel-sweep-K18-9-seed{seed}"]
        assert sweep not in made.runs
        given = settings_of(made.command(sweep, "sweep"))
        assert (given["BUDGETS"], given["K"], given["STEP"]) == ("18 9", "9", "1")
        for budget in (18, 9):
            run = made.known[f"trained/michel-K{budget}-seed{seed}"]
            found = settings_of(made.command(run, "prune"))
            assert found["SWEEP"] == given["SWEEP"] and found["BUDGETS"] == "18 9"
            assert made.trained(run) == [f"{given['SWEEP']}/results.json"]
    assert made.sweep_of(made.known["trained/start-K9-seed1"]) is None


def test_a_model_that_is_given_is_not_trained(plan, tmp_path):
    model = tmp_path / "mine.pt"
    with pytest.raises(ValueError, match=f"^unpruned {model}: no such file"):
        plan(unpruned=str(model)).check()
    model.write_text("a model")
    made = plan(unpruned=str(model))
    made.check()
    assert all(made.source_of(run) == [] for run in made.runs)
    base = made.runs[0]
    assert made.scorable(base) == [] and settings_of(made.command(base, "score"))["UNPRUNED"] == str(model)


def test_choices_of_two_models_are_not_mixed(plan, tmp_path):
    model = tmp_path / "mine.pt"
    model.write_text("a model")
    made = plan(unpruned=str(model))
    made.note_settings()
    made.check()
    for other in (plan(), plan(trained_epochs=2)):
        with pytest.raises(ValueError, match="holds choices of heads of another model, with other settings"):
            other.check()
    model.write_text("another model")
    with pytest.raises(ValueError, match="content: sha256:"):
        plan(unpruned=str(model)).check()
    made = plan(only="trained/auto-K9-seed1")
    for name in made.scored(made.runs[0]):
        write(made.record(made.runs[0], name))
    made.check()  # a clone has records and no model, and nothing is to be done


def test_the_start_is_that_of_the_recipe(plan):
    """What is shown as the new recipe after 0 updates is what its learning begins with."""
    made = plan()
    assert made.settings.methods["start"]["most_steps"] == MOST_STEPS
    heads = HeadMap(
        [AttentionBlock(name=str(number), kind="encoder-self", num_heads=4) for number in range(9)]
    )
    for budget in (18, 9):
        given = settings_of(made.command(made.known[f"trained/start-K{budget}-seed1"], "prune"))
        assert given["STEP"] == {18: "2", 9: "3"}[budget] and given["IMPORTANCE_SAMPLES"] == str(SAMPLES)
        found = derive(Setting("dsp", False, 240, heads, budget))
        minimum = found["min_heads_per_block"]
        flags = "--exact-pruning --dont-normalize-importance-by-layer"
        assert found["init_scores"] == "importance"
        assert given["MICHEL_FLAGS"] == flags + (f" --min-heads-per-block {minimum}" if minimum else "")


def test_the_stock_model_has_the_sizes_of_the_architecture(tmp_path):
    pytest.importorskip("fairseq")
    from types import SimpleNamespace

    from dsp_plugin.mt.heads.gated_model import multi30k

    stub = tmp_path / "python"
    stub.write_text('#!/usr/bin/env bash\nprintf "%q " "$@" >>"$CALLS"; echo >>"$CALLS"\n')
    stub.chmod(0o755)
    write(tmp_path / "bin/dict.en.txt")
    places = {"PYTHON": stub, "CALLS": tmp_path / "calls", "DATA_BIN": tmp_path / "bin"}
    settings = {**places, "SAVE_DIR": tmp_path / "run", "EPOCHS": 3, "STEPS": "train", "DATASET": "multi30k"}
    environment = {**os.environ, **{name: str(value) for name, value in settings.items()}}
    subprocess.run([ROOT / "scripts/mt/stock.sh"], env=environment, check=True)
    training, summary = map(shlex.split, (tmp_path / "calls").read_text().splitlines())
    given = dict(zip(training, training[1:]))
    sizes = SimpleNamespace()
    multi30k(sizes)
    for side in ("encoder", "decoder"):
        for size in ("layers", "embed_dim", "ffn_embed_dim", "attention_heads"):
            found = given[f"--{side}-{size.replace('_', '-')}"]
            assert found == str(getattr(sizes, f"{side}_{size}")), size
    assert training[1] == "fairseq_cli.train" and given["--arch"] == "transformer"
    wanted = {"max-tokens": "4096", "lr": "3e-3", "lr-scheduler": "inverse_sqrt", "warmup-updates": "500"}
    wanted |= {"dropout": "0.2", "weight-decay": "0.0001", "label-smoothing": "0.1", "max-epoch": "3"}
    assert {name: given[f"--{name}"] for name in wanted} == wanted
    assert summary[1] == "dsp_plugin.mt.programs.chassis.training_results"


def test_the_table_has_every_seed_and_the_comparisons(plan, tmp_path):
    made = plan(budgets=9)
    text = made.write_tables()
    assert "not measured" in text and not made.tests_file.exists()
    for seed in (1, 2):
        for name, share in (("auto", 0.05), ("michel", 0.3)):
            run = made.known[f"trained/{name}-K9-seed{seed}"]
            scored(made, run, "test-tuned", share, seed)
        scored(made, made.known[f"trained/unpruned_tuned-seed{seed}"], "test-tuned", 0.05, seed + 7)
    scored(made, made.runs[0], "test", 0.01)
    assert len(made.untested()) == 4 and made.table_files() == []
    text = made.write_tables()
    rows = {
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in text.splitlines()
        if line.startswith("|")
    }
    (mine,) = [row for row in rows if row[:2] == ("dsp-pipelined-auto-tuned", "9/36")]
    mean, *each = map(float, mine[2:5])
    assert abs(mean - sum(each) / 2) < 0.011 and mine[5:] == ("not measured",) * 3
    (base,) = [row for row in rows if row[:2] == ("unpruned", "36/36")]
    assert float(base[2]) > mean and base[3:5] == ("", "")
    compared = {row[2]: row for row in rows if row[0] == mine[0] and row[1] == "9" and row[3] == "test"}
    against, level = compared["michel-tuned"], compared["unpruned-tuned"]
    assert float(against[4]) > 10 and float(against[5]) < 0.01 < float(level[5])
    assert compared["dsp-start-tuned"][4:] == ("not measured",) * 4
    # noted with what they are of: other scores are compared again, the same are not
    assert made.untested() == []
    scored(made, made.known["trained/michel-K9-seed1"], "test-tuned", 0.29, 5)
    assert [pair.name for pair in made.untested()] == [
        "trained/auto-K9-seed1 and trained/michel-K9-seed1, test-tuned"
    ]


def test_the_shipped_table_is_that_of_the_shipped_records(monkeypatch):
    monkeypatch.chdir(ROOT)
    made = PipelinedPlan({})
    assert made.untested() == []
    for path, text in made.tables().items():
        assert path.read_bytes() == text.encode()
