"""`--dry_run` of the training programs on Transformers: it says what the training is, and writes nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from glue_folders import write_task
from hf_programs import HEADS, mnli, start, write_bert

from dsp_plugin.records.record import load_record

# program -> its own options; what it says of the heads
PROGRAMS = {
    "glue/run_glue": ([], f"{HEADS} of {HEADS}"),
    "glue/run_dsp": (["--num_of_heads", "3", "--joint_pruning", "--use_ste"], f"3 of {HEADS}"),
    "glue/run_voita": (
        ["--joint_pruning", "--pruning_lr", "0.1"],
        f"as many as the penalty leaves of {HEADS}",
    ),
    "glue/run_diff": (["--target_sparsity", "0.1"], f"{HEADS} of {HEADS}"),
    "glue/run_glue_diffpruning": ([], f"{HEADS} of {HEADS}"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dry")
    write_bert(folder / "bert")
    write_task(folder / "MNLI", "MNLI", train=48, dev=9)
    return folder


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_says_what_would_train_and_writes_nothing(name, folder, capsys):
    own, heads = PROGRAMS[name]
    before = everything(folder)
    words = [*mnli(folder), "--do_train", "--do_eval", "--num_train_epochs", "2", *own, "--dry_run"]
    start(name, *words, "--output_dir", folder / "out")
    said = capsys.readouterr().out
    assert f"heads that stay: {heads}" in said
    assert re.search(r"dry run: 48 examples, 12 updates", said), said[-2000:]
    assert re.search(r"dry run: about 0 min \d\d s", said)
    assert everything(folder) == before


def test_its_parameters_and_updates_are_those_of_the_training(folder, capsys):
    words = [*mnli(folder), "--do_train", "--do_eval", "--num_train_epochs", "1", "--seed", "3"]
    start("glue/run_glue", *words, "--output_dir", folder / "real", "--dry_run")
    said = capsys.readouterr().out
    start("glue/run_glue", *words, "--output_dir", folder / "real")
    record = load_record(folder / "real" / "results.json")
    learning = int(re.search(r"([\d,]+) of [\d,]+ parameters would learn", said)[1].replace(",", ""))
    assert learning == record.parameters["before"]
    assert f"{record.updates} updates" in said
    weights = 1e6 * float(re.search(r"([\d.]+) MB of weights", said)[1])
    assert weights == pytest.approx((folder / "real" / "model.safetensors").stat().st_size, rel=0.2)


def test_a_run_without_training_is_refused(folder):
    with pytest.raises(
        (ValueError, SystemExit),
        match="^run_glue.py: error: --dry_run says what a training would be: give --do_train$",
    ):
        start("glue/run_glue", *mnli(folder), "--do_eval", "--output_dir", folder / "x", "--dry_run")
