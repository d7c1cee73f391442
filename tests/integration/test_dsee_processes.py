"""All three stages of DSEE in two processes, as the seed's launcher starts them, and in one."""

from __future__ import annotations

import hf_programs  # noqa: F401  (first: see there)  isort: skip

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from glue_folders import write_task
from hf_programs import ROOT, on_task, start, write_bert

from dsp_plugin.dsee import DseeFile
from dsp_plugin.hf.dsee.checkpoints import FILE
from dsp_plugin.records.record import load_record

WORDS = (
    "--do_train --do_eval --max_steps 3 --third_max_steps 2 --seed 3 --max_seq_length 24 --logging_steps 1 "
    "--learning_rate 1e-2 --save_strategy no --apply_lora --lora_r 2 --apply_sparse --num_sparse 8 "
    "--prune_heads_num 1 --pruning_ratio 0.2 --ad_pruning_ratio 0.2 --prune_mode ABS"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """one/ and two/: the results of one process with 8 rows a batch, and of two with 4."""
    folder = tmp_path_factory.mktemp("processes")
    write_bert(folder / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    write_task(folder / "CoLA", "CoLA", train=32, dev=16)
    words = [*on_task(folder, "CoLA"), *WORDS, "--per_device_train_batch_size"]
    start("dsee/run_dsee", *words, 8, "--output_dir", folder / "one")
    command = [sys.executable, "-m", "torch.distributed.launch", "--standalone", "--nproc_per_node=2"]
    command += [ROOT / "scripts" / "dsee" / "run_dsee.py", *words, 4, "--output_dir", folder / "two"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("| stage II: /") == 1  # one of them speaks
    return folder


@pytest.mark.parametrize("stage, updates", [("1st", 3), ("3rd", 2)])
def test_two_processes_have_the_losses_of_one(folder, stage, updates):
    states = [json.loads((folder / n / stage / "trainer_state.json").read_text()) for n in ("one", "two")]
    one, two = ([e["loss"] for e in state["log_history"] if "loss" in e] for state in states)
    assert len(one) == updates and one == pytest.approx(two, abs=1e-5, rel=0)


def test_two_processes_write_what_one_writes(folder):
    for stage in ("1st", "2nd", "3rd"):
        one, two = (DseeFile.load(folder / n / stage / FILE) for n in ("one", "two"))
        assert one.kept == two.kept and one.masks.keys() == two.masks.keys()
        for name, update in one.updates.items():
            assert update.positions.equal(two.updates[name].positions)
            assert update.up.numpy() == pytest.approx(two.updates[name].up.numpy(), abs=1e-4)
        records = [load_record(folder / n / stage / "dev" / "results.json") for n in ("one", "two")]
        found = [json.loads((folder / n / stage / "eval_results.json").read_text()) for n in ("one", "two")]
        assert found[0]["eval_loss"] == pytest.approx(found[1]["eval_loss"], abs=1e-4)
        assert records[0].extra["dsee"]["trainable"] == records[1].extra["dsee"]["trainable"]
