"""DSEE's three stages on small generated data: the published command line, records, files, resumes."""

from __future__ import annotations

import hf_programs  # noqa: F401  (first: see there)  isort: skip

import json
import shutil
from pathlib import Path

import pytest
import torch
from glue_folders import write_task
from hf_programs import start, write_bert
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from dsp_plugin.dsee import DseeFile
from dsp_plugin.hf.dsee import load_dsee, merge_dsee, save_lora
from dsp_plugin.hf.dsee.checkpoints import FILE
from dsp_plugin.records.answers import load_answers
from dsp_plugin.records.record import load_record

# as published, but for sizes, intervals and the sparse entries of so small a matrix
PUBLISHED = (
    "--save_total_limit 10 --do_train --do_eval --num_train_epochs 1 --save_steps 2 --seed 1 "
    "--per_device_train_batch_size 8 --per_device_eval_batch_size 8 --max_seq_length 24 "
    "--overwrite_output_dir --logging_steps 2 --load_best_model_at_end True "
    "--metric_for_best_model eval_accuracy --apply_lora --lora_r 4 --apply_sparse --num_sparse 16 "
    "--learning_rate 2e-2 --evaluation_strategy steps"
).split()
LATER = (
    "--do_train --do_eval --max_steps 4 --seed 1 --per_device_train_batch_size 8 --max_seq_length 24 "
    "--learning_rate 1e-2 --save_steps 2 --report_to none"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dsee")
    write_bert(folder / "bert")
    write_task(folder / "SST-2", "SST-2", train=48, dev=16)
    return folder


def sst2(folder: Path) -> list:
    return ["--model_name_or_path", folder / "bert", "--task_name", "sst2", "--data_dir", folder / "SST-2"]


@pytest.fixture(scope="module")
def first(folder) -> dict:
    """Stage I in out/, by the published command line."""
    return start("dsee/run_glue", *sst2(folder), *PUBLISHED, "--output_dir", folder / "out")


@pytest.fixture(scope="module")
def weights(folder, first) -> dict:
    """Stages II and III, unstructured, in weights/."""
    words = ["--pruning_ratio", 0.2, "--ad_pruning_ratio", 0.2, "--prune_mode", "ABS", *LATER]
    out = ["--dsee_checkpoint", folder / "out", "--output_dir", folder / "weights"]
    return start("dsee/run_glue_prune", *sst2(folder), *words, *out)


@pytest.fixture(scope="module")
def heads(folder, first) -> dict:
    """Stages II and III, structured, in heads/."""
    words = ["--prune_heads_num", 1, "--prune_neurons", 0.5, "--neuron_group", 8, *LATER]
    out = ["--dsee_checkpoint", folder / "out" / FILE, "--output_dir", folder / "heads"]
    return start("dsee/run_glue_prune_heads", *sst2(folder), *words, *out)


def account(place: Path) -> dict:
    return load_record(place / "dev" / "results.json").extra["dsee"]


def base(folder: Path, seed: int = 0):
    """The base with a task head of chance, which the file replaces."""
    torch.manual_seed(seed)
    return AutoModelForSequenceClassification.from_pretrained(folder / "bert", num_labels=2)


def tensors(file: Path) -> dict:
    return load_file(file)


def same(one: Path, other: Path) -> bool:
    """Whether two files hold the same numbers."""
    here, there = tensors(one), tensors(other)
    return here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)


# ---- stage I


def test_the_published_command_trains_the_update_and_the_task_head(folder, first):
    stored = DseeFile.load(folder / "out" / FILE)
    assert len(stored.updates) == 4 and all(len(one.values) == 16 for one in stored.updates.values())
    assert all(bool(one.up.any()) and bool(one.values.any()) for one in stored.updates.values())
    assert set(stored.task_head) == {"classifier.weight", "classifier.bias"} and not stored.masks
    record = load_record(folder / "out" / "results.json")
    assert (record.method, record.updates, record.seed) == ("dsee", 6, 1)
    assert record.heads["kept"] == record.heads["total"]
    assert not (folder / "out" / "model.safetensors").exists()
    assert 0 <= first["dev"]["eval_accuracy"] <= 1


def test_the_scores_are_those_of_the_file_on_the_base(folder, first):
    model = base(folder)
    load_dsee(model, folder / "out" / FILE)
    merged = base(folder)
    load_dsee(merged, folder / "out" / FILE)
    merge_dsee(merged)
    ids = torch.arange(5, 25).view(2, 10)
    model.eval(), merged.eval()
    torch.testing.assert_close(model(ids).logits, merged(ids).logits, rtol=1e-5, atol=1e-5)
    words = ["--apply_lora", "--do_eval", "--max_seq_length", 24, "--dsee_checkpoint", folder / "out"]
    again = start("dsee/run_glue", *sst2(folder), *words, "--output_dir", folder / "again")
    assert again["dev"]["eval_loss"] == first["dev"]["eval_loss"]
    assert account(folder / "again")["trainable"] == account(folder / "out")["trainable"]


def test_the_best_checkpoint_is_the_model(folder, first):
    state = json.loads((folder / "out" / "trainer_state.json").read_text())
    assert same(Path(state["best_model_checkpoint"]) / FILE, folder / "out" / FILE)


def test_the_account_counts_what_is_in_the_file(folder, first):
    stored, told = DseeFile.load(folder / "out" / FILE), account(folder / "out")
    assert told["trainable"] == stored.count and told["base_weights"] == stored.base.total
    assert told["weights_left"] == stored.base.total
    assert told["bytes"] == (folder / "out" / FILE).stat().st_size
    assert told["update_nonzeros"]["sparse"] == 64 and told["batch"] == [8, 24]
    assert told["flops"]["base"] == told["flops"]["deployed"] > 0 and told["latency"]["pairs"] > 0
    assert ("processor" in told["latency"]) == (told["latency"]["threads"] == 1)


# ---- stages II and III


def test_pruned_weights_are_zero_through_stage_iii(folder, weights):
    before, after = (DseeFile.load(folder / "weights" / place / FILE) for place in ("2nd", "3rd"))
    assert before.masks == after.masks and len(after.masks) == 13  # 6 a layer, and the pooler
    sizes = {True: [0, 0], False: [0, 0]}
    for name, mask in after.masks.items():
        group = sizes[name in after.updates]
        group[0], group[1] = group[0] + mask.size - mask.kept, group[1] + mask.size
    assert all(gone == round(0.2 * size) for gone, size in sizes.values())
    assert any(not torch.equal(before.updates[name].up, after.updates[name].up) for name in after.updates)
    model = base(folder)
    load_dsee(model, after)
    merge_dsee(model)
    for name, mask in after.masks.items():
        if name not in after.updates:
            assert not bool(model.get_parameter(name)[~mask.mask()].any())
    told = account(folder / "weights" / "3rd")
    assert told["weights_left"] == told["base_weights"] - sum(gone for gone, _ in sizes.values())
    names = [load_record(folder / "weights" / p / "dev" / "results.json").method for p in ("2nd", "3rd")]
    assert names == ["dsee-w0.2-q0.2-ABS-untuned", "dsee-w0.2-q0.2-ABS"]


def test_heads_and_neurons_are_gone_for_good(folder, heads):
    after, told = DseeFile.load(folder / "heads" / "3rd" / FILE), account(folder / "heads" / "3rd")
    attention = [numbers for name, numbers in after.kept.items() if name not in after.groups]
    assert [len(numbers) for numbers in attention] == [3, 3] and set(after.groups.values()) == {8}
    record = load_record(folder / "heads" / "3rd" / "results.json")
    assert record.heads["kept"] == record.heads["total"] - 2
    assert {b["name"]: b["kept"] for b in record.heads["blocks"]} == after.kept
    groups = [numbers for name, numbers in after.kept.items() if name in after.groups]
    assert record.heads["groups"] == {"total": 10, "kept": sum(map(len, groups))}
    answers = load_answers(
        folder / "heads" / "3rd" / "dev", load_record(folder / "heads/3rd/dev/results.json")
    )
    assert len(answers.labels) == len(answers.answers) == 16
    assert record.parameters["after"] < record.parameters["before"]
    assert told["flops"]["deployed"] < told["flops"]["base"]
    assert told["bytes"] < (folder / "out" / FILE).stat().st_size
    assert record.method == "dsee-h1-n0.5"
    words = ["--apply_lora", "--do_eval", "--max_seq_length", 24]
    out = ["--dsee_checkpoint", folder / "heads" / "3rd", "--output_dir", folder / "heads-again"]
    again = start("dsee/run_glue", *sst2(folder), *words, *out)
    assert again["dev"]["eval_loss"] == heads["dev"]["eval_loss"]


def test_stage_iii_goes_on_exactly_where_heads_are_gone(folder, heads, capsys):
    shutil.copytree(folder / "heads" / "3rd", folder / "cut" / "3rd")
    shutil.rmtree(folder / "cut" / "3rd" / "checkpoint-4")
    (folder / "cut" / "3rd" / FILE).unlink()
    words = ["--prune_heads_num", 1, "--prune_neurons", 0.5, "--neuron_group", 8, *LATER]
    out = ["--dsee_checkpoint", folder / "out" / FILE, "--output_dir", folder / "cut"]
    start("dsee/run_glue_prune_heads", *sst2(folder), *words, *out)
    assert "3rd/checkpoint-2" in capsys.readouterr().out
    assert same(folder / "cut" / "3rd" / FILE, folder / "heads" / "3rd" / FILE)


def test_a_lora_by_peft_can_be_pruned_and_trained_on(folder, first):
    model = base(folder)
    load_dsee(model, folder / "out" / FILE)
    save_lora(model, folder / "lora")
    words = ["--ad_pruning_ratio", 0.5, "--prune_mode", "AB", "--mask_update", *LATER]
    out = ["--dsee_checkpoint", folder / "lora", "--output_dir", folder / "from-lora"]
    start("dsee/run_glue_prune", *sst2(folder), *words, *out)
    third = folder / "from-lora" / "3rd"
    stored = DseeFile.load(third / FILE)
    assert all(len(one.values) == 0 for one in stored.updates.values()) and len(stored.masks) == 4
    assert load_record(third / "results.json").method == "lora-q0.5-AB-masked"
    told = account(third)  # the update counts only where weights are left
    assert told["merged_nonzeros"] <= told["weights_left"] < told["base_weights"]


def test_weights_are_pruned_gradually_and_the_training_goes_on_exactly(folder, first):
    words = ["--pruning_ratio", 0.3, "--gradual_updates", 3, "--gradual_every", 1, *LATER]
    out = ["--dsee_checkpoint", folder / "out", "--output_dir", folder / "gradual"]
    start("dsee/run_glue_prune", *sst2(folder), *words, *out)
    third = folder / "gradual" / "3rd"
    shares = []
    for place in (third / "checkpoint-2", third):
        masks = DseeFile.load(place / FILE).masks.values()
        shares.append(sum(mask.size - mask.kept for mask in masks))
    assert 0 < shares[0] < shares[1] and not (folder / "gradual" / "2nd").exists()
    stopped = folder / "stopped" / "3rd"
    stopped.mkdir(parents=True)
    shutil.copytree(third / "checkpoint-2", stopped / "checkpoint-2")
    shutil.copy(third / "settings.json", stopped)
    start("dsee/run_glue_prune", *sst2(folder), *words, *out[:2], "--output_dir", folder / "stopped")
    assert same(stopped / FILE, third / FILE)


# ---- all three, and resumes


def test_all_stages_go_on_where_they_were_stopped(folder, capsys):
    words = "--apply_lora --lora_r 2 --apply_sparse --num_sparse 8 --sparse_method omp --third_max_steps 2"
    words = [*words.split(), "--prune_heads_num", 1, "--ad_pruning_ratio", 0.1, *LATER]
    whole, stopped = folder / "whole", folder / "halted"
    start("dsee/run_dsee", *sst2(folder), *words, "--output_dir", whole)
    said = capsys.readouterr().out
    assert said.count("% of the FLOPs") == 3
    for place in ("1st/checkpoint-2", "1st/settings.json"):
        (stopped / place).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (whole / place).is_dir() else shutil.copy
        copy(whole / place, stopped / place)
    start("dsee/run_dsee", *sst2(folder), *words, "--output_dir", stopped)
    assert "going on from" in capsys.readouterr().out
    assert all(same(whole / place / FILE, stopped / place / FILE) for place in ("1st", "2nd", "3rd"))
    shutil.rmtree(stopped / "3rd" / "dev")  # a command that had ended scores once more
    start("dsee/run_dsee", *sst2(folder), *words, "--output_dir", stopped)
    assert (stopped / "3rd" / "dev" / "results.json").exists()
    with pytest.raises(SystemExit) as error:
        other = [word if word != "1e-2" else "1e-3" for word in words]
        start("dsee/run_dsee", *sst2(folder), *other, "--output_dir", stopped)
    assert "learning_rate" in str(error.value)


def test_without_lora_all_weights_learn(folder):
    words = "--do_train --do_eval --max_steps 2 --max_seq_length 24 --save_steps 100 --slimming".split()
    words += ["--l1_loss_coef", "0.1", "--output_dir", folder / "full"]
    start("dsee/run_glue", *sst2(folder), *words)
    record = load_record(folder / "full" / "results.json")
    assert record.method == "unpruned" and (folder / "full" / "model.safetensors").exists()


def test_a_dry_run_writes_nothing(folder, capsys):
    words = [*LATER, "--apply_lora", "--dry_run", "--prune_heads_num", 1, "--output_dir", folder / "dry"]
    start("dsee/run_dsee", *sst2(folder), *words)
    assert "dry run" in capsys.readouterr().out and not (folder / "dry").exists()
