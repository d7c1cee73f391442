"""A diff-pruning program that is killed while it writes: the file that was there is whole, and the next
start ends the same.
"""

from __future__ import annotations

import hf_programs  # noqa: F401  (first: see there)  isort: skip

import json
import os
import shutil
import subprocess
import sys

from glue_folders import write_task
from hf_programs import ROOT, on_task, start, write_bert

from dsp_plugin.diffs import DiffPack

INFO, PACK = "checkpoint-last-info.pt", "task.diff.safetensors"
PRUNE, MAG, FIX = "glue/run_glue_diffpruning", "glue/run_glue_mag", "glue/run_glue_fixmask_finetune"


def test_killed_and_started_again_is_uninterrupted(tmp_path, capsys):
    write_bert(tmp_path / "bert")
    write_task(tmp_path / "CoLA", "CoLA", train=32, dev=8)
    words = on_task(tmp_path, "CoLA")
    words += (
        "--do_train --max_seq_length 24 --max_steps 3 --save_steps 1 --per_device_train_batch_size 4 "
        "--learning_rate 1e-3"
    ).split()

    # whole runs, one after the other
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    mask = [
        "--eval_checkpoint",
        whole / INFO,
        "--save_checkpoint",
        tmp_path / "mask.pt",
        "--target_sparsity",
        0.01,
    ]
    last = ["--mask_checkpoint", tmp_path / "mask.pt"]
    start(PRUNE, *words, "--output_dir", whole)
    start(MAG, *words, *mask, "--output_dir", tmp_path / "2nd")
    start(FIX, *words, *last, "--output_dir", whole / "3rd")

    # killed: while the second checkpoint is written; while stage 1's file, and a pack, take the place of
    # earlier ones
    shutil.copytree(whole, tmp_path / "done")
    for path in (tmp_path / "done").rglob("checkpoint-3"):
        shutil.rmtree(path)
    jobs = [
        (PRUNE, [*words, "--output_dir", parted], "torch.save", "optimizer.pt", 2),
        (PRUNE, [*words, "--output_dir", tmp_path / "done"], "os.replace", INFO, 1),
        (FIX, [*words, *last, "--output_dir", parted / "3rd"], "torch.save", "optimizer.pt", 3),
        (FIX, [*words, *last, "--output_dir", tmp_path / "done" / "3rd"], "os.replace", PACK, 1),
    ]
    names = ("program", "words", "call", "file", "count")
    (tmp_path / "jobs.json").write_text(json.dumps([dict(zip(names, job)) for job in jobs], default=str))
    tests = ROOT / "tests" / "helpers"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tests), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(tests / "killed_programs.py"), str(tmp_path / "jobs.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]

    for folder, killed in ((parted, 2), (parted / "3rd", 3)):
        assert (folder / f"checkpoint-{killed}" / "optimizer.pt").is_file()
        assert not (folder / f"checkpoint-{killed}" / "trainer_state.json").exists()
    for name in (INFO, f"3rd/{PACK}"):  # the earlier files
        assert (tmp_path / "done" / name).read_bytes() == (whole / name).read_bytes()
    DiffPack.load(tmp_path / "done" / "3rd" / PACK)

    # started again
    (tmp_path / "done" / INFO).unlink()
    (tmp_path / "done" / "3rd" / PACK).unlink()
    for folder, steps in ((parted, 1), (tmp_path / "done", 3)):
        capsys.readouterr()
        start(PRUNE, *words, "--output_dir", folder)
        said = capsys.readouterr().out
        assert f"going on from {folder / f'checkpoint-{steps}'}" in said
        assert ("checkpoint-2 is not whole" in said) == (folder == parted)
        start(FIX, *words, *last, "--output_dir", folder / "3rd")
        for name in (INFO, f"3rd/{PACK}"):
            assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


def test_killed_while_the_first_checkpoint_was_written_it_begins_anew(tmp_path, capsys):
    write_bert(tmp_path / "bert")
    write_task(tmp_path / "CoLA", "CoLA", train=8, dev=4)
    words = [
        *on_task(tmp_path, "CoLA"),
        "--do_train",
        "--max_seq_length",
        24,
        "--max_steps",
        1,
        "--output_dir",
        tmp_path / "out",
    ]
    (tmp_path / "out" / "checkpoint-1").mkdir(parents=True)
    (tmp_path / "out" / "checkpoint-1" / "trainer_state.json").write_text('{"epoch": ')
    start(PRUNE, *words)
    said = capsys.readouterr().out
    assert "checkpoint-1 is not whole" in said and "going on" not in said
    assert (
        json.loads((tmp_path / "out" / "checkpoint-1" / "trainer_state.json").read_text())["global_step"] == 1
    )
