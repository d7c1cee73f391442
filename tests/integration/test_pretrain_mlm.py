"""`pretrain_mlm.py` on small text: it learns, keeps to its time, goes on, and says what it did."""

from __future__ import annotations

import hf_programs  # noqa: F401  (first: see there)  isort: skip

import itertools
from pathlib import Path

import pytest
import torch
from glue_folders import SIGNS, VERBS, write_task
from hf_programs import start, write_bert
from transformers import AutoModelForMaskedLM, AutoTokenizer

from dsp_plugin.records.record import load_record

WORDS = (
    "--held_out 12 --min_words 3 --max_minutes 60 --max_steps 60 --save_steps 30 --learning_rate 3e-3 "
    "--head_learning_rate 3e-3 --mask_share 0.3 --per_device_train_batch_size 16 --report_to none --seed 1 "
    "--warmup_steps 2 --disable_tqdm True"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mlm")
    write_bert(folder / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    # most words are one word, which a few updates tell
    rare = itertools.product(VERBS, VERBS, SIGNS)
    lines = [f"nothing nothing {a} nothing nothing {b} nothing nothing {c} nothing" for a, b, c in rare]
    (folder / "train.txt").write_text("\n".join(lines) + "\n")
    (folder / "dev.txt").write_text("\n".join(lines[::9]) + "\n")
    return folder


def words(folder: Path, out: str, *more) -> list:
    files = ["--text_files", folder / "train.txt", "--left_out_files", folder / "dev.txt"]
    return ["--model_name_or_path", folder / "bert", *files, "--output_dir", folder / out, *WORDS, *more]


@pytest.fixture(scope="module")
def found(folder) -> dict:
    return start("delta/pretrain_mlm", *words(folder, "out"))


def test_masked_words_are_learnt_and_recorded(folder, found):
    assert found["after"] > found["before"] + 15
    record = load_record(folder / "out" / "results.json")
    told = {metric.subset: metric.value for metric in record.metrics}
    assert told == {"held out, before": found["before"], "held out, after": found["after"]}
    assert record.updates == 60 and record.extra["held_out"] == 12 and record.extra["left_out_scored"] == 9
    assert record.extra["sentences"] == 75 - 9 - 12 and record.seconds["train"] > 0
    assert "cls.predictions.transform.dense.weight" in record.extra["new_weights"]


def test_what_is_written_is_a_masked_language_model(folder, found):
    model = AutoModelForMaskedLM.from_pretrained(folder / "out")
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    tokenizer = AutoTokenizer.from_pretrained(folder / "out")
    inputs = tokenizer("nothing nothing sees [MASK] nothing likes nothing", return_tensors="pt")
    with torch.no_grad():
        logits = model.eval()(**inputs).logits[0, 4]
    assert tokenizer.convert_ids_to_tokens(int(logits.argmax())) == "nothing"


def test_the_same_command_again_makes_no_further_update(folder, found):
    weights = (folder / "out" / "model.safetensors").read_bytes()
    assert start("delta/pretrain_mlm", *words(folder, "out")) == found
    assert (folder / "out" / "model.safetensors").read_bytes() == weights


def test_the_time_ends_a_training_and_more_of_it_goes_on(folder, capsys):
    short = start("delta/pretrain_mlm", *words(folder, "timed", "--max_minutes", 1e-9))
    first = load_record(folder / "timed" / "results.json")
    assert first.updates == 1 and first.seconds["train"] > 0
    assert start("delta/pretrain_mlm", *words(folder, "timed", "--max_minutes", 1e-9)) == short
    assert load_record(folder / "timed" / "results.json").updates == 1
    start("delta/pretrain_mlm", *words(folder, "timed", "--clock", "processor"))
    second = load_record(folder / "timed" / "results.json")
    assert second.updates == 60 and second.seconds["train"] > first.seconds["train"]
    assert "going on from" in capsys.readouterr().out


# options -> what is said
REFUSED = {
    "--max_minutes 0": "--max_minutes 0.0: a finite number above 0",
    "--mask_share 1": "--mask_share 1.0: a share",
    "--held_out 500": "--held_out 500: there are 66 sentences",
    "--eval_strategy epoch": "--eval_strategy must be no",
    "--dry_run": "--dry_run is not for a training of a limited time",
    "--text_files none.txt": "none.txt cannot be read",
    "--glue_dir none": "--glue_dir none is not a folder",
    "--clock sun": "invalid choice: 'sun'",
}


@pytest.mark.parametrize("more", REFUSED)
def test_what_cannot_be_is_refused(folder, more):
    out = "refused"
    with pytest.raises(SystemExit) as error:
        start("delta/pretrain_mlm", *words(folder, out, *more.split()))
    assert REFUSED[more] in str(error.value)
    assert not (folder / out / "results.json").exists()


def test_folders_that_are_not_named_come_from_the_environment(folder, tmp_path, monkeypatch):
    write_task(tmp_path / "glue" / "SST-2", "SST-2", train=40, dev=8)
    few = [str(word) for word in words(folder, "env") if "txt" not in str(word) and "files" not in str(word)]
    monkeypatch.delenv("DSP_DATA_DIR", raising=False)
    with pytest.raises(SystemExit, match="--text_files or --glue_dir is missing, and DSP_DATA_DIR"):
        start("delta/pretrain_mlm", *few)
    monkeypatch.setenv("DSP_DATA_DIR", str(tmp_path))
    start("delta/pretrain_mlm", *few, "--max_steps", "1", "--held_out", "2")
    assert load_record(folder / "env" / "results.json").extra["files"] == ["SST-2/train.tsv"]
