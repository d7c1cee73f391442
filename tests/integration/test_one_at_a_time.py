"""A second program in a folder that another one fills is refused by name, before it writes anything there."""

from __future__ import annotations

import os

import pytest
from claims import at_work
from glue_folders import write_task
from hf_programs import ROOT, on_task, start, write_bert

from dsp_plugin.records.files.claim import LOCK


def test_fairseq_trainings(tiny_data, stock_run, tmp_path):
    """Plain fairseq-train with the plugin, the programs of this one, several processes of one training."""
    from fairseq_commands import run
    from fairseq_training import JOINT, train, train_in_two_processes

    short = ["--max-update", 2]
    folder = tmp_path / "runs"
    sweep = [
        "--restore-file",
        stock_run / "checkpoint_last.pt",
        "--num-of-heads",
        12,
        "--cpu",
        "--no-scores",
        "--batch-size",
        30,
    ]
    with at_work(folder) as other:
        said = f"--save-dir {folder} is in use by process {other.pid}"
        commands = [
            train(tiny_data, folder, *JOINT, *short),
            run(
                str(ROOT / "scripts/mt/run_dsp.py"),
                [tiny_data, "--save-dir", folder, *JOINT, *short],
                tmp_path,
            ),
            run(str(ROOT / "scripts/mt/run_michel.py"), [tiny_data, "--save-dir", folder, *sweep], tmp_path),
        ]
        for finished in commands:
            assert said in finished.failed().strip().splitlines()[-1], finished.output[-2000:]
        assert not [name for name in os.listdir(folder) if name != LOCK and not name.endswith(".out")]
    together = train_in_two_processes(tiny_data, folder, *JOINT, *short)
    assert [finished.returncode for finished in together] == [0, 0], together[0].output[-2000:]
    assert (folder / "checkpoint_last.pt").is_file() and not (folder / LOCK).exists()


def test_programs_of_the_trainer(tmp_path):
    write_bert(tmp_path / "bert")
    write_task(tmp_path / "CoLA", "CoLA", train=8, dev=4)
    words = [*on_task(tmp_path, "CoLA"), "--max_seq_length", 24, "--output_dir", tmp_path / "runs"]
    train = [*words, "--do_train", "--max_steps", 1, "--per_device_train_batch_size", 4]
    with at_work(tmp_path / "runs") as other:
        for program, more in (
            ("glue/run_dsp", ["--num_of_heads", 3]),
            ("glue/run_glue", []),
            ("glue/run_glue_diffpruning", []),
        ):
            with pytest.raises(
                SystemExit, match=rf"--output_dir {tmp_path / 'runs'} is in use by process {other.pid} "
            ):
                start(program, *train, *more)
        assert os.listdir(tmp_path / "runs") == [LOCK]
    start("glue/run_glue", *train)
    assert (tmp_path / "runs" / "model.safetensors").is_file() and not (tmp_path / "runs" / LOCK).exists()
