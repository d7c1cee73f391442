"""run_michel.py of scripts/glue on a small finetuned model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from glue_folders import write_task
from hf_programs import HEADS, start, write_bert

from dsp_plugin.hf import load_pruned
from dsp_plugin.hf.folders.model_heads import heads_of
from dsp_plugin.records.record import find_records, load_record, mask_of
from dsp_plugin.reports.report import make_report


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """MRPC/ and a model finetuned on it, in output/."""
    folder = tmp_path_factory.mktemp("michel")
    write_bert(folder / "bert")
    write_task(folder / "MRPC", "MRPC", train=16, dev=8)
    words = [
        "--do_train",
        "--do_eval",
        "--max_steps",
        4,
        "--learning_rate",
        1e-3,
        "--output_dir",
        folder / "output",
    ]
    start("glue/run_glue", "--model_name_or_path", folder / "bert", *data(folder), *words)
    return folder


def data(folder: Path) -> list:
    return ["--task_name", "MRPC", "--data_dir", folder / "MRPC", "--max_seq_length", 24]


def sweep(folder: Path, out, *words):
    return start(
        "glue/run_michel",
        "--model_name_or_path",
        folder / "output",
        *data(folder),
        "--output_dir",
        out,
        *words,
    )


@pytest.fixture(scope="module")
def exact(folder) -> list:
    """The published command line, three heads a step, landing on 4 and 2."""
    return sweep(
        folder,
        folder / "exact",
        "--cache_dir",
        folder / "cache",
        "--tokenizer_name",
        folder / "bert",
        "--exact_pruning",
        "--num_of_heads",
        3,
        "--budgets",
        4,
        2,
    )


def test_every_step_is_scored_saved_and_recorded(folder, exact):
    assert [step["kept"] for step in exact] == [8, 5, 4, 2]
    for before, after in zip(exact, exact[1:]):
        assert sorted(after["removed"]) == [
            h for h in range(HEADS) if before["keep"][h] and not after["keep"][h]
        ]
    for number, step in enumerate(exact):
        assert json.loads((folder / "exact" / f"step-{number:02d}.json").read_text())["keep"] == step["keep"]
        record = load_record(folder / "exact" / f"K{step['kept']}" / "dev" / "results.json")
        assert mask_of(record.heads) == step["keep"]
        assert {metric.name: metric.value for metric in record.metrics} == step["scores"]["dev"]["metrics"]
    whole = load_record(folder / "output" / "dev" / "results.json")
    first = load_record(folder / "exact" / "K8" / "dev" / "results.json")
    assert {m.name: m.value for m in first.metrics} == pytest.approx({m.name: m.value for m in whole.metrics})
    summary = load_record(folder / "exact" / "results.json")
    assert (
        summary.method == "michel"
        and summary.heads["kept"] == 2
        and summary.extra["importance_examples"] == 16
    )
    assert summary.extra["removed"] == [head for step in exact for head in step["removed"]]


def test_the_budgets_models_are_pruned_and_score_the_same(folder, exact):
    assert sorted(path.name for path in (folder / "exact").glob("pruned-K*")) == ["pruned-K2", "pruned-K4"]
    assert not (folder / "exact" / "mask-K5.json").exists()
    for kept in (4, 2):
        step = next(step for step in exact if step["kept"] == kept)
        assert json.loads((folder / "exact" / f"mask-K{kept}.json").read_text())["keep"] == step["keep"]
        assert mask_of(heads_of(load_pruned(folder / "exact" / f"pruned-K{kept}"))) == step["keep"]
    words = ["--do_eval", "--output_dir", folder / "rescored"]
    found = start(
        "glue/run_glue", "--model_name_or_path", folder / "exact" / "pruned-K4", *data(folder), *words
    )
    four = next(step for step in exact if step["kept"] == 4)["scores"]["dev"]["metrics"]
    assert {name: 100 * found["dev"][f"eval_{name}"] for name in four} == pytest.approx(four)


def test_started_again_it_goes_on(folder, exact, capsys):
    (folder / "exact" / "step-03.json").unlink()
    capsys.readouterr()
    again = sweep(
        folder,
        folder / "exact",
        "--tokenizer_name",
        folder / "bert",
        "--exact_pruning",
        "--num_of_heads",
        3,
        "--budgets",
        4,
        2,
    )
    assert "going on from step 2 of 3" in capsys.readouterr().out
    assert [step["keep"] for step in again] == [step["keep"] for step in exact]
    with pytest.raises(SystemExit, match="error: --output_dir .*other settings .*choose another folder"):
        sweep(folder, folder / "exact", "--num_of_heads", 3, "--budgets", 4, 2)
    anew = sweep(
        folder,
        folder / "exact",
        "--overwrite_output_dir",
        "--num_of_heads",
        4,
        "--rank_by",
        "magnitude",
        "--no_scores",
    )
    assert [step["kept"] for step in anew] == [8, 4, 0] and all(not step["scores"] for step in anew)
    assert not list((folder / "exact").glob("pruned-K*"))  # those of the earlier sweep


def test_the_table_and_a_sample_of_the_training_set(folder, capsys):
    steps = sweep(
        folder,
        folder / "sample",
        "--num_of_heads",
        4,
        "--data_subset",
        5,
        "--metric_name",
        "accuracy",
        "--batch_size",
        3,
    )
    said = capsys.readouterr().out.splitlines()
    head = next(number for number, line in enumerate(said) if line.split() == ["|", "K", "accuracy", "dev"])
    rows = [line.split()[1:] for line in said[head + 1 : head + 4]]
    assert rows == [[str(step["kept"]), f"{step['scores']['dev']['value']:.2f}"] for step in steps]
    assert load_record(folder / "sample" / "results.json").extra["importance_examples"] == 5


def test_random_is_a_method_of_its_own_in_the_report(folder, exact, tmp_path):
    sweep(
        folder,
        folder / "random",
        "--num_of_heads",
        2,
        "--rank_by",
        "random",
        "--budgets",
        4,
        "--record_dir",
        tmp_path / "in" / "random",
    )
    sweep(
        folder,
        folder / "one-shot",
        "--num_of_heads",
        2,
        "--budgets",
        4,
        "--record_dir",
        tmp_path / "in" / "michel",
    )
    assert {record.method for _, record in find_records(tmp_path / "in")} == {"random", "michel"}
    report = make_report(tmp_path / "in", tmp_path / "out")
    assert report.problems == []
    table = (tmp_path / "out" / "tables" / "MRPC.csv").read_text()
    assert all(f"{kept}/8" in table for kept in (8, 6, 4)) and "f1 dev (%)" in table
    short = (tmp_path / "out" / "tables" / "MRPC.md").read_text()  # the steps are in the curve
    assert short.count("4/8") == 2 and "6/8" not in short and "8/8" not in short
    assert "MRPC-f1-dev.png" in {path.name for path in report.files}


@pytest.mark.parametrize(
    "words, said",
    [
        ("--num_of_heads 0", "--num_of_heads 0: a whole number, 1 or more"),
        ("--num_of_heads 9", "--num_of_heads is the number of heads to remove a step: 1..8"),
        ("--num_of_heads 2 --budgets 9", "--budgets must be in 0..8"),
        ("--rank_by beauty", "--rank_by must be one of importance, magnitude, random"),
        ("--metric_name bleu", "--metric_name bleu: MRPC has accuracy, f1"),
        ("--num_of_heads 2 --importance_subset test", "--importance_subset test: there are train, dev"),
    ],
)
def test_what_cannot_be_is_refused(folder, tmp_path, words, said):
    with pytest.raises(SystemExit) as refusal:
        sweep(folder, tmp_path / "out", *words.split())
    assert said in str(refusal.value)


def test_an_untrained_model_is_refused(folder, tmp_path):
    with pytest.raises(SystemExit, match="is no trained model of MRPC .*finetune it first"):
        start(
            "glue/run_michel",
            "--model_name_or_path",
            folder / "bert",
            *data(folder),
            "--output_dir",
            tmp_path,
            "--num_of_heads",
            2,
        )
