"""The programs of scripts/glue on small generated data: command lines as the papers have them, a few
updates each.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from glue_folders import write_task
from hf_programs import HEADS, SHORT, mnli, start, write_bert

from dsp_plugin.hf import load_pruned
from dsp_plugin.hf.data.glue_tasks import find_task
from dsp_plugin.hf.folders.model_heads import heads_of
from dsp_plugin.records.record import load_record, load_records, mask_of
from dsp_plugin.reports.pictures.heads import head_map_text
from dsp_plugin.reports.report import make_report

DSP = "--pruning_lr 0.5 --annealing --initial_temperature 10 --final_temperature 1e-2".split()
DSP += ["--cooldown_steps", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """bert/ (untrained), and the official files of MNLI/ and STS-B/."""
    folder = tmp_path_factory.mktemp("glue")
    write_bert(folder / "bert")
    write_task(folder / "MNLI", "MNLI", train=48, dev=9)
    write_task(folder / "STS-B", "STS-B", train=8, dev=6)
    return folder


@pytest.fixture(scope="module")
def plain(folder) -> dict:
    """A finetuned model in output/, by the published command line with an older program's flags."""
    words = (
        "--do_train --do_eval --do_predict --num_train_epochs 1.0 --per_gpu_eval_batch_size 16 "
        "--overwrite_cache"
    ).split()
    return start(
        "glue/run_glue",
        *mnli(folder),
        *words,
        "--output_dir",
        folder / "output",
        "--cache_dir",
        folder / "cache",
    )


@pytest.fixture(scope="module")
def joint(folder) -> dict:
    """Joint annealed DSP with 3 heads in dsp/."""
    words = ["--do_train", "--do_eval", "--num_train_epochs", 1, "--num_of_heads", 3, *DSP, "--joint_pruning"]
    more = ["--eval_strategy", "steps", "--eval_steps", 2]
    return start("glue/run_dsp", *mnli(folder), *words, *more, "--output_dir", folder / "dsp")


# ---- plain finetuning


def test_both_development_sets_are_scored_apart(folder, plain):
    assert set(plain) == {"dev_matched", "dev_mismatched"}
    assert "eval_accuracy" in plain["dev_matched"] and "eval_accuracy_mm" in plain["dev_mismatched"]
    for split in plain:
        record = load_record(folder / "output" / split / "results.json")
        (metric,) = record.metrics
        suffix = "_mm" if split == "dev_mismatched" else ""
        assert (metric.name, metric.subset, metric.unit) == ("accuracy", split, "%")
        assert metric.value == pytest.approx(100 * plain[split][f"eval_accuracy{suffix}"])
        assert (record.kind, record.name, record.method) == ("glue-score", "MNLI", "unpruned")


def test_prediction_files_are_the_leaderboards(folder, plain):
    for name in ("MNLI-m.tsv", "MNLI-mm.tsv"):
        lines = (folder / "output" / name).read_text().splitlines()
        assert lines[0] == "index\tprediction" and len(lines) == 10
        assert {line.split("\t")[1] for line in lines[1:]} <= {"entailment", "neutral", "contradiction"}
    assert not (folder / "output" / "AX.tsv").exists()


def test_a_training_leaves_its_record(folder, plain):
    record = load_record(folder / "output" / "results.json")
    assert (record.kind, record.updates, record.seed) == ("glue-train", 6, 42)
    assert record.heads["kept"] == record.heads["total"] == HEADS
    assert record.parameters["before"] == record.parameters["after"] > 0
    assert record.extra["train_examples"] == 48


# ---- DSP


def test_exactly_k_heads_stay_everywhere(folder, joint):
    mask = json.loads((folder / "dsp" / "mask.json").read_text())
    assert sum(mask["keep"]) == 3 and len(mask["scores"]) == HEADS
    kept = sorted(range(HEADS), key=lambda head: -mask["scores"][head])[:3]
    assert [head for head in range(HEADS) if mask["keep"][head]] == sorted(kept)
    record = load_record(folder / "dsp" / "results.json")
    assert record.method == "dsp-joint" and mask_of(record.heads) == mask["keep"]
    pruned = load_pruned(folder / "dsp" / "pruned")
    assert heads_of(pruned) == record.heads
    assert (
        record.parameters["after"]
        == sum(weight.numel() for weight in pruned.parameters())
        < record.parameters["before"]
    )


def test_the_pruned_folder_scores_as_the_masked_model_did(folder, joint):
    words = ["--do_eval", "--output_dir", folder / "rescored"]
    again = start("glue/run_glue", *mnli(folder, "dsp/pruned"), *words)
    for split in joint:
        for name in ("eval_loss", "eval_accuracy"):
            name += "_mm" if split == "dev_mismatched" else ""
            assert again[split][name] == pytest.approx(joint[split][name], abs=1e-5)
    record = load_record(folder / "rescored" / "dev_matched" / "results.json")
    assert record.method == "pruned" and record.heads == load_record(folder / "dsp" / "results.json").heads


def test_the_choice_of_heads_is_noted_over_training(folder, joint):
    history = load_record(folder / "dsp" / "results.json").extra["history"]
    assert [entry["updates"] for entry in history] == [1, 2, 3, 4, 5, 6]
    assert all(sum(entry["keep"]) == 3 for entry in history)


def test_a_trained_choice_can_be_deployed_with_another_k(folder, joint):
    words = ["--do_eval", "--num_of_heads", 5, "--output_dir", folder / "five"]
    start("glue/run_dsp", *mnli(folder, "dsp"), *words)
    five, three = (json.loads((folder / name / "mask.json").read_text()) for name in ("five", "dsp"))
    assert five["scores"] == three["scores"] and sum(five["keep"]) == 5
    assert all(wide for wide, narrow in zip(five["keep"], three["keep"]) if narrow)
    record = load_record(folder / "five" / "dev_matched" / "results.json")
    assert record.method == "dsp-joint"  # as it was trained, though the command line does not say so
    assert heads_of(load_pruned(folder / "five" / "pruned"))["kept"] == 5


def test_pipelined_leaves_the_weights_alone(folder, plain):
    words = [
        "--do_train",
        "--num_train_epochs",
        1,
        "--num_of_heads",
        2,
        *DSP,
        "--output_dir",
        folder / "pipelined",
    ]
    start("glue/run_dsp", *mnli(folder, "output"), *words)
    from safetensors.torch import load_file

    before, after = (load_file(folder / name / "model.safetensors") for name in ("output", "pipelined"))
    assert set(after) - set(before) == {name for name in after if name.startswith("gating.")} != set()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert load_record(folder / "pipelined" / "results.json").method == "dsp-pipelined"


def test_straight_through_with_intermediate_masks(folder, monkeypatch):
    monkeypatch.setattr("dsp_plugin.hf.programs.heads.written.MASK_EVERY", 2)  # in place of 1000
    words = [
        "--do_train",
        "--max_steps",
        5,
        "--num_of_heads",
        4,
        "--use_ste",
        "--joint_pruning",
        "--intermediate_masks",
    ]
    start("glue/run_dsp", *mnli(folder), *words, "--no_pruned", "--output_dir", folder / "ste")
    record = load_record(folder / "ste" / "results.json")
    assert (record.method, record.heads["kept"], record.updates) == ("dsp-ste", 4, 5)
    masks = sorted((folder / "ste" / "masks").iterdir())
    assert [path.name for path in masks] == ["mask-0000002.json", "mask-0000004.json"]
    assert all(sum(json.loads(path.read_text())["keep"]) == 4 for path in masks)
    assert not (folder / "ste" / "pruned").exists()


# ---- starting again


def test_the_same_command_goes_on_where_it_was_stopped(folder, capsys):
    words = [*mnli(folder), "--do_train", "--num_of_heads", 3, *DSP, "--joint_pruning", "--max_steps", 4]
    start("glue/run_dsp", *words, "--output_dir", folder / "whole")
    start("glue/run_dsp", *words, "--output_dir", folder / "halved", "--save_steps", 2)
    shutil.rmtree(folder / "halved" / "checkpoint-4")  # as if killed after update 2
    capsys.readouterr()
    start("glue/run_dsp", *words, "--output_dir", folder / "halved", "--save-steps", 2)
    assert f"going on from {folder / 'halved' / 'checkpoint-2'}" in capsys.readouterr().out
    whole, halved = (json.loads((folder / name / "mask.json").read_text()) for name in ("whole", "halved"))
    assert halved["scores"] == pytest.approx(whole["scores"], abs=1e-6)
    record = load_record(folder / "halved" / "results.json")
    assert record.updates == 4 and [entry["updates"] for entry in record.extra["history"]] == [1, 2, 3, 4]
    # once it is over, it stays as it is
    before = {
        name: (folder / "halved" / name).read_bytes() for name in ("mask.json", "heads.jsonl", "results.json")
    }
    start("glue/run_dsp", *words, "--output_dir", folder / "halved", "--save-steps", 2)
    assert all((folder / "halved" / name).read_bytes() == content for name, content in before.items())
    with pytest.raises(SystemExit, match=r"other settings \(learning_rate: 0.001 there, 0.009 here\)"):
        start("glue/run_dsp", *words, "--learning_rate", 9e-3, "--output_dir", folder / "halved")
    with pytest.raises(
        SystemExit, match=r"holds a training with other settings \(num_of_heads: 3 there, 4 here\)"
    ):
        start("glue/run_dsp", *words, "--num_of_heads", 4, "--output_dir", folder / "halved")
    with pytest.raises(SystemExit, match="--num_of_heads must be a whole number in 0..8"):
        start(
            "glue/run_dsp",
            *words,
            "--num_of_heads",
            9,
            "--overwrite_output_dir",
            "--output_dir",
            folder / "halved",
        )
    assert (folder / "halved" / "checkpoint-4").is_dir()  # nothing is removed for a run that cannot be
    start(
        "glue/run_dsp",
        *words,
        "--num_of_heads",
        4,
        "--overwrite_output_dir",
        "--output_dir",
        folder / "halved",
        "--max_steps",
        1,
    )
    assert [path.name for path in (folder / "halved").glob("checkpoint-*")] == ["checkpoint-1"]


def test_a_folder_with_other_things_in_it_is_not_written_into(folder, plain, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    words = [*mnli(folder), "--do_train", "--max_steps", 1, "--output_dir", tmp_path]
    with pytest.raises(
        SystemExit, match="is not empty and has no checkpoint to go on from: give --overwrite_output_dir"
    ):
        start("glue/run_glue", *words)
    start("glue/run_glue", *words, "--overwrite_output_dir")
    assert load_record(tmp_path / "results.json").updates == 1 and (tmp_path / "thesis.tex").exists()


# ---- Voita


def test_a_penalty_that_closes_all_heads_says_so(folder, capsys):
    """Scores start within 1 of 0 and Adam moves them by 0.1 an update: 12 updates under a heavy penalty
    close all.
    """
    words = [
        "--do_train",
        "--do_eval",
        "--max_steps",
        12,
        "--lr_scheduler_type",
        "constant",
        "--l0_penalty",
        50,
        "--joint_pruning",
    ]
    start("glue/run_voita", *mnli(folder), *words, "--output_dir", folder / "voita")
    said = capsys.readouterr().out
    assert (
        f"--l0_penalty 50 kept 0 of {HEADS} heads" in said
        and "EVERY HEAD IS CLOSED: lower --l0_penalty" in said
    )
    record = load_record(folder / "voita" / "results.json")
    assert (
        record.heads["kept"] == 0
        and record.extra["history"][0]["keep"] != record.extra["history"][-1]["keep"]
    )
    start("glue/run_voita", *mnli(folder, "voita"), "--do_eval", "--output_dir", folder / "voita-again")
    assert f"--l0_penalty 50 kept 0 of {HEADS} heads" in capsys.readouterr().out
    assert load_record(folder / "voita-again" / "dev_matched" / "results.json").method == "voita-joint"


def test_voita_with_a_budget_is_exact(folder):
    words = [
        "--do_train",
        "--max_steps",
        2,
        "--l0_penalty",
        "0.0015",
        "--joint_pruning",
        "--pruning_lr",
        "0.1",
        "--num_of_heads",
        5,
    ]
    start("glue/run_voita", *mnli(folder), *words, "--output_dir", folder / "voita-K5")
    record = load_record(folder / "voita-K5" / "results.json")
    assert (record.method, record.heads["kept"]) == ("voita-joint", 5)


# ---- other tasks, other sources


def test_a_regression(folder):
    words = [
        "--model_name_or_path",
        folder / "bert",
        "--task_name",
        "sts-b",
        "--data_dir",
        folder / "STS-B",
        *SHORT,
    ]
    found = start(
        "glue/run_glue",
        *words,
        "--do_train",
        "--do_eval",
        "--do_predict",
        "--max_steps",
        2,
        "--output_dir",
        folder / "sts",
    )
    assert {"eval_pearson", "eval_spearmanr"} <= set(found["dev"])
    record = load_record(folder / "sts" / "dev" / "results.json")
    assert {metric.name for metric in record.metrics} == {"pearson", "spearmanr"}
    assert record.extra["main_metric"] == "spearmanr" and (folder / "sts" / "STS-B.tsv").is_file()


@pytest.mark.parametrize("name", ["CoLA", "SST-2", "QQP", "QNLI", "RTE", "WNLI"])
def test_every_other_task_is_scored_by_its_own_metrics(folder, tmp_path, name):
    write_task(tmp_path / name, name, train=8, dev=6)
    words = [
        "--model_name_or_path",
        folder / "bert",
        "--task_name",
        name.lower(),
        "--data_dir",
        tmp_path / name,
        *SHORT,
    ]
    words += [
        "--do_train",
        "--do_eval",
        "--do_predict",
        "--max_steps",
        1,
        "--num_of_heads",
        2,
        "--use_ste",
        "--joint_pruning",
    ]
    start("glue/run_dsp", *words, "--no_pruned", "--output_dir", tmp_path / "out")
    record = load_record(tmp_path / "out" / "dev" / "results.json")
    assert (record.name, [metric.name for metric in record.metrics]) == (name, list(find_task(name).metrics))
    assert len((tmp_path / "out" / f"{name}.tsv").read_text().splitlines()) == 7


def test_a_limited_score_is_not_taken_for_the_whole(folder, plain):
    words = [
        "--do_eval",
        "--max_eval_samples",
        4,
        "--output_dir",
        folder / "limited",
        "--record_dir",
        folder / "records",
    ]
    start("glue/run_glue", *mnli(folder, "output"), *words, "--record_name", "trial", "--method", "mine")
    record = load_record(folder / "records" / "dev_matched" / "results.json")
    assert (record.name, record.method, record.metrics[0].subset) == ("trial", "mine", "dev_matched[:4]")


def test_a_models_own_order_of_the_labels_is_kept(folder, plain, tmp_path):
    """An MNLI model of the hub that numbers its labels otherwise scores as it should."""
    shutil.copytree(
        folder / "output", tmp_path / "model", ignore=shutil.ignore_patterns("checkpoint-*", "checksums.json")
    )
    from safetensors.torch import load_file, save_file

    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    turned = [2, 0, 1]
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][turned].clone()
    save_file(weights, path, {"format": "pt"})
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    labels = ["CONTRADICTION", "ENTAILMENT", "NEUTRAL"]
    config["id2label"], config["label2id"] = (
        dict(enumerate(labels)),
        {label: n for n, label in enumerate(labels)},
    )
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    words = mnli(folder)
    words[1] = tmp_path / "model"
    found = start("glue/run_glue", *words, "--do_eval", "--do_predict", "--output_dir", tmp_path / "out")
    for split in plain:
        for name, value in plain[split].items():
            if name.startswith(("eval_loss", "eval_accuracy")):
                assert found[split][name] == pytest.approx(value, abs=1e-6)
    assert (tmp_path / "out" / "MNLI-m.tsv").read_text() == (folder / "output" / "MNLI-m.tsv").read_text()


# ---- reports


def test_the_report_shows_these_runs_as_it_shows_translations(folder, plain, joint, tmp_path):
    for name in ("output", "dsp", "five"):
        for split in (".", "dev_matched", "dev_mismatched"):
            if (folder / name / split / "results.json").is_file():
                (tmp_path / "in" / name / split).mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / name / split / "results.json", tmp_path / "in" / name / split)
    report = make_report(tmp_path / "in", tmp_path / "out")
    names = {path.name for path in report.files}
    assert report.problems == []
    assert {
        "MNLI-accuracy-dev_matched.png",
        "MNLI-accuracy-dev_mismatched.png",
        "MNLI-heads.png",
        "MNLI.md",
    } <= names
    table = (tmp_path / "out" / "tables" / "MNLI.md").read_text()
    assert "accuracy dev_matched (%)" in table and "3/8" in table and "8/8" in table
    first = load_records(tmp_path / "in")[0]
    assert str(first.heads["kept"]) in head_map_text(first.heads, mask_of(first.heads))
