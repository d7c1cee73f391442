"""`scripts/dsee/run_clm.py` on a few lines of counting in two languages: a new GPT-2, a few updates."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
from clm_data import WORDS, gpt2, pairs, tokenizer, write_jsonl  # isort: skip
from hf_programs import ROOT, start
from safetensors.torch import load_file

from dsp_plugin.dsee import DseeFile
from dsp_plugin.hf import prune_heads, save_pruned
from dsp_plugin.hf.programs.chassis.arguments import ClmArguments
from dsp_plugin.hf.programs.chassis.system import System
from dsp_plugin.hf.programs.chassis.train import read_options, train_system
from dsp_plugin.records.record import load_record
from dsp_plugin.records.sentences import load_statistics

SIZES = "n_layer=1,n_head=2,n_embd=16,n_positions=64,resid_pdrop=0,embd_pdrop=0,attn_pdrop=0"
NEW = ["--config_name", "gpt2", "--config_overrides", SIZES, "--train_tokenizer", 280]
SHORT = "--max_seq_length 40 --max_new_tokens 6 --per_device_train_batch_size 8 --learning_rate 1e-2".split()
SHORT += ["--use_cpu", "--save_steps", "10000"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """data/ with JSONL: train, dev (two references a source, in a line or in two), sources to predict."""
    folder = tmp_path_factory.mktemp("clm")
    write_jsonl(folder / "data/train.jsonl", pairs(40))
    dev = [(source, [target, "a " + target]) for source, target in pairs(5, seed=2)]
    write_jsonl(folder / "data/dev.jsonl", [*dev, (dev[0][0], "one more")])
    write_jsonl(folder / "data/test.jsonl", [{"source": source} for source, _ in pairs(3, seed=3)])
    return folder


def data(folder) -> list:
    return ["--data_dir", folder / "data", *SHORT]


@pytest.fixture(scope="module")
def trained(folder) -> dict:
    words = ["--do_train", "--do_eval", "--do_predict", "--generate", "--max_steps", 5]
    return start("dsee/run_clm", *NEW, *data(folder), *words, "--output_dir", folder / "out")


def scored(folder, name, *words):
    model = ["--model_name_or_path", folder / "out"]
    found = start("dsee/run_clm", *model, *data(folder), "--do_eval", *words, "--output_dir", folder / name)
    return found["dev"], load_record(folder / name / "dev" / "results.json")


def test_loss_perplexity_and_bleu_are_recorded(folder, trained):
    record = load_record(folder / "out" / "dev" / "results.json")
    assert (record.kind, record.name, record.method) == ("clm-score", "CLM", "unpruned")
    loss, perplexity, bleu = record.metrics
    assert (loss.name, loss.unit, loss.value) == ("loss", "nats/token", trained["dev"]["eval_loss"])
    assert perplexity.value == pytest.approx(torch.tensor(loss.value, dtype=torch.float64).exp().item())
    assert bleu.name == "BLEU" and bleu.signature.startswith("nrefs:var|") and bleu.subset == "dev"
    assert record.extra["examples"] == 11 and record.extra["main_metric"] == "BLEU"
    assert record.extra["generation"]["sources"] == 5 and record.extra["model"].startswith("new gpt2")
    assert len(load_statistics(folder / "out" / "dev", bleu)) == 5
    training = load_record(folder / "out" / "results.json")
    assert (training.kind, training.updates, training.extra["train_examples"]) == ("clm-train", 5, 40)


def test_texts_are_written_one_a_source(folder, trained):
    for name, count in (("generated.txt", 5), ("generated_test.txt", 3)):
        text = (folder / "out" / name).read_text("utf-8")
        assert text.count("\n") == count and "<|endoftext|>" not in text


def test_the_written_model_scores_and_writes_the_same(folder, trained):
    words = ("--generate", "--per_device_eval_batch_size", 2)
    found, record = scored(folder, "again", *words)
    for name in ("eval_loss", "eval_BLEU"):
        assert found[name] == pytest.approx(trained["dev"][name], abs=1e-5)
    one, other = ((folder / name / "generated.txt").read_text() for name in ("out", "again"))
    assert one == other and record.data == load_record(folder / "out" / "dev" / "results.json").data
    (folder / "plain").mkdir()
    (folder / "plain" / "generated.txt").write_text("of an earlier run")
    plain, record = scored(folder, "plain")
    assert "eval_BLEU" not in plain and not (folder / "plain" / "generated.txt").exists()
    assert [metric.name for metric in record.metrics] == ["loss", "perplexity"]
    beams, record = scored(folder, "beams", "--generate", "--num_beams", 2, "--max_eval_samples", 2)
    assert record.extra["generation"]["num_beams"] == 2 and record.metrics[0].subset == "dev[:2]"


def test_it_learns_to_count(folder, tmp_path):
    write_jsonl(tmp_path / "train.jsonl", list(WORDS.items()) * 8)
    write_jsonl(tmp_path / "dev.jsonl", list(WORDS.items()))
    words = [
        "--data_dir",
        tmp_path,
        *SHORT,
        "--do_train",
        "--do_eval",
        "--generate",
        "--num_train_epochs",
        16,
    ]
    overrides = ["--config_overrides", SIZES.replace("n_embd=16", "n_embd=32")]
    found = start("dsee/run_clm", *NEW, *overrides, *words, "--output_dir", tmp_path / "out")
    assert found["dev"]["eval_perplexity"] < 1.2
    assert (tmp_path / "out" / "generated.txt").read_text().split() == list(WORDS.values())


def test_the_same_command_goes_on_where_it_was_stopped(folder, tmp_path, capsys):
    words = [*NEW, *data(folder), "--do_train", "--max_steps", 6]
    start("dsee/run_clm", *words, "--output_dir", tmp_path / "whole")
    start("dsee/run_clm", *words, "--save_steps", 3, "--output_dir", tmp_path / "halved")
    shutil.rmtree(tmp_path / "halved" / "checkpoint-6")
    capsys.readouterr()
    start("dsee/run_clm", *words, "--save_steps", 3, "--output_dir", tmp_path / "halved")
    assert f"going on from {tmp_path / 'halved' / 'checkpoint-3'}" in capsys.readouterr().out
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "halved"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    for changed, said in (
        (["--separator", " || "], r"separator: => there, \|\| here"),
        (["--loss_on_source"], "loss_on_source: False there, True here"),
        (["--train_tokenizer", 300], "tokenizer_files: trained, 280 entries there"),
        (["--config_overrides", SIZES + ",n_inner=8"], "config_files: "),
    ):
        with pytest.raises(SystemExit, match=f"other settings .*{said}"):
            start("dsee/run_clm", *words, *changed, "--output_dir", tmp_path / "halved")


def test_a_dry_run_writes_nothing(folder, tmp_path, capsys):
    words = [*NEW, *data(folder), "--do_train", "--do_eval", "--generate", "--dry_run"]
    start("dsee/run_clm", *words, "--output_dir", tmp_path / "out")
    said = capsys.readouterr().out
    assert "dry run: 40 examples, 15 updates" in said and "heads that stay: 2 of 2" in said
    assert not (tmp_path / "out").exists()


def test_plain_text_by_itself_and_a_model_that_is_there(folder, tmp_path, capsys):
    gpt2(280).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("one two three\nfour five\n" * 4)
    (tmp_path / "long.txt").write_text("one two\n" + "one " * 50)
    words = ["--model_name_or_path", tmp_path / "model", *SHORT, "--do_train", "--do_eval", "--max_steps", 2]
    files = ["--data_dir", tmp_path, "--train_file", "text.txt", "--validation_file", "long.txt"]
    more = ["--label_smoothing_factor", 0.1, "--tune_epochs", 1]
    found = start("dsee/run_clm", *words, *files, *more, "--output_dir", tmp_path / "out")
    assert (
        f"{tmp_path / 'long.txt'}: 1 of 2 rows are longer than --max_seq_length 40" in capsys.readouterr().out
    )
    assert found["dev"]["eval_perplexity"] > 1
    assert load_record(tmp_path / "out" / "tuned" / "dev" / "results.json").metrics[0].subset == "long"
    # no row was added for padding
    assert load_file(tmp_path / "out" / "model.safetensors")["transformer.wte.weight"].shape[0] == 280


def test_a_model_without_some_of_its_heads_is_trained_on(folder, tmp_path):
    model = gpt2(280)
    prune_heads(model, {0: [1], 1: [0, 1]})  # a layer with no head at all, too
    save_pruned(model, tmp_path / "pruned")
    tokenizer().save_pretrained(tmp_path / "pruned")
    words = [
        "--model_name_or_path",
        tmp_path / "pruned",
        *data(folder),
        "--do_train",
        "--do_eval",
        "--generate",
    ]
    start("dsee/run_clm", *words, "--max_steps", 2, "--output_dir", tmp_path / "out")
    record = load_record(tmp_path / "out" / "dev" / "results.json")
    assert (record.method, record.heads["kept"], record.heads["total"]) == ("pruned-tuned", 1, 4)
    assert record.parameters["after"] < record.parameters["before"]


def test_another_system_takes_its_place_and_its_deployed_model_writes_the_text(folder, tmp_path):
    class Silent(System):
        """Deploys a model that ends every text at once."""

        def method_name(self):
            return "silent"

        def deployed(self, trainer):
            end = self.tokenizer.eos_token_id
            trainer.model.lm_head.register_forward_hook(
                lambda module, given, logits: logits.index_fill(-1, torch.tensor([end]), 1e4)
            )
            return trainer

    words = [*NEW, *data(folder), "--do_train", "--do_eval", "--generate", "--max_steps", 1]
    words += ["--output_dir", tmp_path / "out"]
    setup, () = read_options("", ClmArguments, (), list(map(str, words)))
    assert train_system(Silent(setup))["dev"]["eval_BLEU"] == 0
    assert (tmp_path / "out" / "generated.txt").read_text() == "\n" * 5
    assert load_record(tmp_path / "out" / "dev" / "results.json").method == "silent"


def test_two_processes_are_one(folder, tmp_path):
    words = [
        *NEW,
        *data(folder),
        "--do_train",
        "--do_eval",
        "--generate",
        "--max_steps",
        4,
        "--logging_steps",
        1,
    ]
    start("dsee/run_clm", *words, "--output_dir", tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words += ["--per_device_train_batch_size", 4, "--output_dir", tmp_path / "two"]
    done = subprocess.run(
        [*command, ROOT / "scripts/dsee/run_clm.py", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    one, two = (json.loads((tmp_path / name / "trainer_state.json").read_text()) for name in ("one", "two"))
    losses = [[entry["loss"] for entry in state["log_history"] if "loss" in entry] for state in (one, two)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    one, two = (load_record(tmp_path / name / "dev" / "results.json") for name in ("one", "two"))
    assert [metric.value for metric in one.metrics] == pytest.approx([m.value for m in two.metrics], abs=1e-4)
    one, two = ((tmp_path / name / "generated.txt").read_text() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    "words, said",
    [
        ("--model_name_or_path /nowhere/gpt2", "--model_name_or_path /nowhere/gpt2: "),
        ("", "--model_name_or_path or, for a new model, --config_name is missing"),
        ("--config_name gpt2", "--train_tokenizer N or --tokenizer_name belongs to a new model"),
        ("--config_name /nowhere/c --train_tokenizer 280", "--config_name /nowhere/c: "),
        (
            "NEW --config_overrides n_layers=2",
            "--config_overrides n_layers=2: a gpt2 has no n_layers, but n_layer",
        ),
        ("NEW --config_overrides n_layer=0", "--config_overrides: num_hidden_layers is 0"),
        ("NEW --config_overrides n_embd=10,n_head=3", "--config_name gpt2: "),
        ("NEW --train_tokenizer 100", "--train_tokenizer 100: a whole number, 257 or more belongs there"),
        ("NEW --max_seq_length 4096", "--max_seq_length 4096: from 2 to 1024 tokens are possible"),
        ("NEW --max_seq_length 2", "--max_seq_length 2: "),
        (
            "NEW --generate --do_eval --max_new_tokens 1024",
            "--max_new_tokens 1024: the model has positions for 1024",
        ),
        ("NEW --generate", "--generate is about scored sets: give --do_eval or --do_predict"),
        ("NEW --num_beams 4", "--num_beams is about the text that --generate makes"),
        ("NEW --num_beams 0", "--num_beams 0: a whole number, 1 or more"),
        ("NEW --metric_for_best_model BLEU", "--metric_for_best_model BLEU: CLM has loss"),
        (
            "NEW --data_dir /nowhere",
            "--data_dir /nowhere: there is none of train.jsonl, train.json, train.txt",
        ),
        ("NEW --train_file no.jsonl", "no.jsonl cannot be read: No such file"),
        ("NEW --train_file bad.jsonl", "bad.jsonl, line 2: no JSON: "),
        ("NEW --do_eval --validation_file /nowhere.txt", "/nowhere.txt cannot be read"),
        ("NEW --task_name CoLA", "unknown: --task_name CoLA"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(folder, tmp_path, words, said):
    (folder / "data" / "bad.jsonl").write_text('{"source": "x", "target": "y"}\n{')
    given = words.replace("NEW", "--config_name gpt2 --train_tokenizer 280").split()
    options = [
        "--max_seq_length",
        40,
        "--data_dir",
        folder / "data",
        "--do_train",
        "--output_dir",
        tmp_path / "out",
    ]
    with pytest.raises(SystemExit) as refusal:
        start("dsee/run_clm", *options, *given)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)
    assert str(refusal.value).startswith("run_clm.py: error: ")
    assert not list((tmp_path / "out").glob("[!.]*"))


def test_all_stages_of_dsee_on_a_causal_model(folder, trained):
    words = "--do_train --do_eval --generate --max_steps 3 --apply_lora --lora_r 2 --apply_sparse".split()
    words = [
        *words,
        "--num_sparse",
        4,
        "--sparse_method",
        "omp",
        "--prune_heads_num",
        1,
        "--prune_mode",
        "ABS",
    ]
    model = ["--model_name_or_path", folder / "out", "--output_dir", folder / "dsee"]
    found = start("dsee/run_clm", *model, *data(folder), *words)
    third = folder / "dsee" / "3rd"
    stored = DseeFile.load(third / "task.dsee.safetensors")
    assert not stored.task_head and [len(one) for one in stored.kept.values()] == [1]
    record = load_record(third / "dev" / "results.json")
    assert record.method == "dsee-omp-h1-ABS" and record.extra["dsee"]["trainable"] == stored.count
    assert record.metrics[0].value == found["dev"]["eval_loss"]
    again = ["--apply_lora", "--do_eval", "--generate", "--dsee_checkpoint", third]
    out = ["--model_name_or_path", folder / "out", "--output_dir", folder / "dsee-again"]
    assert start("dsee/run_clm", *out, *data(folder), *again)["dev"]["eval_loss"] == found["dev"]["eval_loss"]
    texts = [(place / "generated.txt").read_text() for place in (third, folder / "dsee-again")]
    assert texts[0] == texts[1]
