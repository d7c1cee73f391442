"""Bad input to training and generation: a clear last line, before any training, and nothing saved is lost."""

from __future__ import annotations

import os
import re

import pytest
import torch

pytest.importorskip("fairseq")

from fairseq_commands import PACKAGE, run
from fairseq_training import ANNEALING, DSP, JOINT, PIPELINED, K, checkpoint, train

VOITA = [*DSP, "--arch", "voita_transformer", "--l0-penalty", 5000, "--joint-pruning"]
SHORT = ["--max-update", 2]


def refused(finished) -> str:
    """The error message of a command that failed before training."""
    end = finished.failed().strip().splitlines()
    assert "begin training epoch" not in finished.output
    return end[-1]


@pytest.mark.parametrize(
    "flags, message",
    [
        ([*DSP, "--num-of-heads", 25, "--joint-pruning"], r"--num-of-heads must be .* 0\.\.24"),
        ([*JOINT, "--use-ste"], "--use-ste.*--annealing"),
        (PIPELINED, "needs a trained model.*--restore-file.*--finetune-from-model"),
        ([*JOINT, "--restore-file", "/nowhere/model.pt"], "--restore-file /nowhere/model.pt: no such file"),
        ([*JOINT, "--optimizer", "adam"], "--pruning-lr: use --optimizer dsp_adam"),
        ([*JOINT, "--task", "translation", "--optimizer", "adam"], "--pruning-lr: use --optimizer dsp_adam"),
        (
            [*VOITA, "--criterion", "label_smoothed_cross_entropy"],
            "--criterion voita_label_smoothed_cross_entropy",
        ),
        ([*JOINT, "--fp16"], "--fp16-no-flatten-grads"),
        ([*JOINT, "--bf16"], "--bf16 means a TPU.*--amp"),
        ([*JOINT, "--clip-norm", "nan"], "--clip-norm nan: a finite number, 0 or more"),
        ([*JOINT, "--source-lang", "xx"], "--source-lang xx: .*de-en"),
    ],
    ids=[
        "budget",
        "ste+annealing",
        "no-model",
        "no-such-file",
        "adam",
        "stock-task",
        "stock-criterion",
        "fp16",
        "bf16",
        "clip-norm",
        "language",
    ],
)
def test_options_that_cannot_be(tiny_data, tmp_path, flags, message):
    said = refused(train(tiny_data, tmp_path, *flags, *SHORT))
    assert re.search(message, said), said
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize(
    "flags", [["--encoder-layers", 3], ["--decoder-attention-heads", 2]], ids=["layers", "heads"]
)
def test_a_checkpoint_of_another_architecture(tiny_data, stock_run, tmp_path, flags):
    start = stock_run / "checkpoint_last.pt"
    said = refused(train(tiny_data, tmp_path, *PIPELINED, *flags, "--restore-file", start, *SHORT))
    option, here = flags[0][2:].replace("-", "_"), flags[1]
    assert str(start) in said and f"{option}: " in said and f"{here} here" in said


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_damaged_checkpoint(tiny_data, stock_run, tmp_path, share):
    whole = (stock_run / "checkpoint_last.pt").read_bytes()
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(whole[: int(share * len(whole))])
    said = refused(train(tiny_data, tmp_path, *PIPELINED, "--restore-file", damaged, *SHORT))
    assert f"{damaged} is damaged" in said or f"{damaged} is refused" in said


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, witness):
        self.witness = str(witness)

    def __reduce__(self):
        return os.mkdir, (self.witness,)


@pytest.fixture
def trap(stock_run, tmp_path):
    """(a checkpoint that would run a program if it were unpickled, the folder that the program makes)"""
    state, witness = checkpoint(stock_run), tmp_path / "it ran"
    state["extra_state"]["note"] = Trap(witness)
    torch.save(state, tmp_path / "trap.pt")
    return tmp_path / "trap.pt", witness


@pytest.mark.parametrize("option", ["--restore-file", "--finetune-from-model"])
def test_a_hostile_checkpoint_to_start_from(tiny_data, trap, tmp_path, option):
    path, witness = trap
    said = refused(train(tiny_data, tmp_path, *PIPELINED, option, path, *SHORT))
    assert f"{path} is refused" in said and "mkdir" in said
    assert not witness.exists()


def test_a_hostile_checkpoint_to_generate_with(tiny_data, trap, tmp_path):
    path, witness = trap
    done = run("fairseq_cli.generate", [tiny_data, "--user-dir", PACKAGE, "--path", path, "--cpu"], tmp_path)
    assert "mkdir" in done.failed()
    assert not witness.exists()
    torch.load(path, weights_only=False)
    assert witness.exists()  # it is a trap indeed


def test_a_full_disk_while_saving(tiny_data, tmp_path):
    """The save fails with an error; the checkpoint of before is whole, and with room again training goes
    on from it.
    """
    flags = [
        *DSP,
        "--num-of-heads",
        K,
        "--joint-pruning",
        *ANNEALING,
        "--disable-validation",
        "--no-epoch-checkpoints",
    ]
    train(tiny_data, tmp_path, *flags, "--max-update", 1).succeeded()
    last = tmp_path / "checkpoint_last.pt"
    before = last.read_bytes()
    full = train(tiny_data, tmp_path, *flags, "--max-update", 2, largest_file=len(before) // 2)
    assert "File too large" in full.failed()
    assert last.read_bytes() == before
    again = train(tiny_data, tmp_path, *flags, "--max-update", 3).succeeded()
    assert "@ 1 updates)" in again.output
    assert checkpoint(tmp_path)["optimizer_history"][-1]["num_updates"] == 3


def test_our_own_program_says_it_in_one_line_or_shows_all(tiny_data, tmp_path):
    script, words = (
        str(PACKAGE.parent / "scripts/mt/run_dsp.py"),
        [tiny_data, *JOINT, *SHORT, "--save-dir", tmp_path / "run"],
    )
    for more, told in (
        (["--lr", "["], "argument --lr: a number"),
        (["--encoder-layers", -1], "--encoder-layers -1: "),
    ):
        finished = run(script, [*words, *more], tmp_path)
        lines = finished.failed().strip().splitlines()
        assert (
            refused(finished).startswith(f"run_dsp.py: error: {told}")
            and "Traceback" not in finished.output
            and len(lines) < 9
        )
    assert "Traceback" in run(script, [*words, "--dropout", "nan", "--traceback"], tmp_path).failed()
    assert not (tmp_path / "run").exists()
