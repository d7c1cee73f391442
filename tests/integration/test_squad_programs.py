"""The programs of scripts/squad on small generated data, a few updates each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from glue_folders import write_squad
from hf_programs import HEADS, start, write_bert

from dsp_plugin.hf import load_pruned
from dsp_plugin.records.record import load_record, mask_of

SHORT = (
    "--max_seq_length 48 --doc_stride 16 --per_device_train_batch_size 8 --learning_rate 1e-3 --max_steps 3"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("squad")
    write_bert(folder / "bert")
    write_squad(folder / "data" / "train-v1.1.json", paragraphs=3)
    write_squad(folder / "data" / "dev-v1.1.json", paragraphs=2, seed=2)
    return folder


def squad(folder: Path, model: str = "bert") -> list:
    return ["--model_name_or_path", folder / model, "--data_dir", folder / "data", *SHORT]


@pytest.fixture(scope="module")
def plain(folder) -> dict:
    return start(
        "squad/run_squad", *squad(folder), "--do_train", "--do_eval", "--output_dir", folder / "output"
    )


def test_answers_are_scored_and_written(folder, plain):
    record = load_record(folder / "output" / "dev" / "results.json")
    assert (record.kind, record.name, record.method) == ("squad-score", "SQuAD", "unpruned")
    assert {(metric.name, metric.unit, metric.subset) for metric in record.metrics} == {
        ("exact_match", "%", "dev-v1.1"),
        ("f1", "%", "dev-v1.1"),
    }
    assert record.metric("f1", "dev-v1.1").value == pytest.approx(plain["dev"]["eval_f1"])
    answers = json.loads((folder / "output" / "predictions.json").read_text())
    assert set(answers) == {f"q{paragraph}-{place}" for paragraph in range(2) for place in range(4)}
    assert (folder / "output" / "nbest_predictions.json").is_file()


def test_files_by_their_own_options(folder, plain, tmp_path):
    words = [
        "--model_name_or_path",
        folder / "output",
        *SHORT,
        "--do_predict",
        "--output_dir",
        tmp_path / "out",
    ]
    # says nothing of the order of what is predicted
    grouped = ["--train_sampling_strategy", "group_by_length"]
    start("squad/run_squad", *words, *grouped, "--predict_file", folder / "data" / "dev-v1.1.json")
    answers = (folder / "output" / "predictions.json").read_text()
    assert (tmp_path / "out" / "predictions.json").read_text() == answers
    with pytest.raises(SystemExit, match="--predict_file: no file was given, nor a folder by --data_dir"):
        start("squad/run_squad", *words)


def test_joint_dsp_keeps_exactly_k_heads(folder):
    words = (
        "--num_of_heads 3 --joint_pruning --annealing --initial_temperature 10 --final_temperature 0.01 "
        "--cooldown_steps 2"
    )
    out = folder / "dsp"
    found = start(
        "squad/run_dsp", *squad(folder), "--do_train", "--do_eval", *words.split(), "--output_dir", out
    )
    record = load_record(out / "dev" / "results.json")
    assert (record.method, record.heads["kept"], record.heads["total"]) == ("dsp-joint", 3, HEADS)
    again = start(
        "squad/run_squad", *squad(folder, "dsp/pruned"), "--do_eval", "--output_dir", folder / "rescored"
    )
    assert again["dev"]["eval_f1"] == pytest.approx(found["dev"]["eval_f1"])
    assert (out / "predictions.json").read_text() == (folder / "rescored" / "predictions.json").read_text()
    assert type(load_pruned(out / "pruned")).__name__ == "BertForQuestionAnswering"


def test_voita(folder, capsys):
    words = [
        "--do_train",
        "--l0_penalty",
        0.01,
        "--joint_pruning",
        "--num_of_heads",
        5,
        "--output_dir",
        folder / "voita",
    ]
    start("squad/run_voita", *squad(folder), *words)
    assert "the budget deploys exactly 5" in capsys.readouterr().out
    assert load_record(folder / "voita" / "results.json").heads["kept"] == 5


def test_michel(folder, plain):
    words = [word for word in squad(folder, "output")[:4]] + SHORT[:4]
    steps = start(
        "squad/run_michel", *words, "--output_dir", folder / "michel", "--num_of_heads", 4, "--budgets", 4
    )
    assert [step["kept"] for step in steps] == [8, 4]
    record = load_record(folder / "michel" / "K4" / "dev" / "results.json")
    assert mask_of(record.heads) == steps[-1]["keep"] and {m.name for m in record.metrics} == {
        "exact_match",
        "f1",
    }
    whole = load_record(folder / "michel" / "K8" / "dev" / "results.json").metric("f1", "dev-v1.1")
    assert whole.value == pytest.approx(plain["dev"]["eval_f1"])


@pytest.mark.parametrize(
    "words, said",
    [
        ("--doc_stride 0", "--doc_stride 0: a whole number, 1 or more"),
        ("--max_seq_length 65", "--max_seq_length 65: from"),
        ("--train_file none.json", "none.json cannot be read"),
    ],
)
def test_what_cannot_be_is_refused(folder, tmp_path, words, said):
    with pytest.raises(SystemExit) as refusal:
        start(
            "squad/run_squad", *squad(folder), "--do_train", "--output_dir", tmp_path / "out", *words.split()
        )
    assert said in str(refusal.value)


def test_a_wrong_answer_is_named_by_its_place(folder, tmp_path):
    content = write_squad(tmp_path / "train.json")
    content["data"][1]["paragraphs"][0]["qas"][2]["answers"][0]["answer_start"] += 1
    (tmp_path / "train.json").write_text(json.dumps(content))
    words = ["--do_train", "--train_file", tmp_path / "train.json", "--output_dir", tmp_path / "out"]
    with pytest.raises(SystemExit, match=r"data\[1\]\.paragraphs\[0\]\.qas\[2\]"):
        start("squad/run_squad", *squad(folder), *words)


def test_what_voita_leaves_is_tuned_in_the_same_command(folder):
    words = ["--do_train", "--do_eval", "--num_of_heads", 2, "--joint_pruning", "--tune_epochs", 0.5]
    words += ["--pruning_lr", 0.1]  # by hand: three updates are too few for a schedule that is worked out
    found = start("squad/run_voita", *squad(folder), *words, "--output_dir", folder / "tuned-voita/")
    tuned = folder / "tuned-voita" / "tuned"
    record = load_record(tuned / "dev" / "results.json")
    assert (record.method, record.heads["kept"]) == ("voita-joint-tuned", 2)
    assert record.metric("f1", "dev-v1.1").value == pytest.approx(found["dev"]["eval_f1"])
    assert (tuned / "predictions.json").is_file()
