"""A BERT from random weights learns a task with a quarter of its heads, through the programs, and stays as
good pruned.
"""

from __future__ import annotations

from glue_folders import write_task
from hf_programs import HEADS, start, write_bert

from dsp_plugin.records.record import load_record

CHANCE = 0.5


def test_joint_pruning_learns_the_task_and_the_heads(tmp_path):
    write_bert(tmp_path / "bert")
    write_task(tmp_path / "SST-2", "SST-2", train=320, dev=80)
    data = [
        "--task_name",
        "SST-2",
        "--data_dir",
        tmp_path / "SST-2",
        "--max_seq_length",
        16,
        "--per_device_eval_batch_size",
        40,
    ]
    training = (
        "--do_train --do_eval --per_device_train_batch_size 16 --learning_rate 2e-3 --num_train_epochs 8"
    ).split()
    pruning = (
        "--num_of_heads 2 --joint_pruning --pruning_lr 0.1 --annealing --initial_temperature 1 "
        "--final_temperature 0.01"
    ).split()
    words = ["--model_name_or_path", tmp_path / "bert", *data, *training, *pruning, "--cooldown_steps", 100]
    found = start("glue/run_dsp", *words, "--output_dir", tmp_path / "dsp")
    assert found["dev"]["eval_accuracy"] >= 0.95 > CHANCE
    heads = load_record(tmp_path / "dsp" / "results.json").heads
    assert (heads["kept"], heads["total"]) == (2, HEADS)
    words = [
        "--model_name_or_path",
        tmp_path / "dsp" / "pruned",
        *data,
        "--do_eval",
        "--output_dir",
        tmp_path / "again",
    ]
    assert start("glue/run_glue", *words)["dev"]["eval_accuracy"] == found["dev"]["eval_accuracy"]
