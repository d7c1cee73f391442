"""`--dry-run` of the training programs on fairseq: it says what the training is, and writes nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fairseq_commands import run
from fairseq_training import ANNEALING, SETTINGS, SIZES, K

from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint, save_checkpoint

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "mt"
STOCK = ["--arch", "transformer", "--criterion", "label_smoothed_cross_entropy", "--optimizer", "adam"]
JOINT = ["--num-of-heads", K, "--joint-pruning"]
HEADS = ["--prune-heads-num", 1]
# program -> its own options; what it says of the heads that stay
PROGRAMS = {
    "run_dsp": ([*STOCK, *SIZES, *JOINT, *ANNEALING], f"{K} of 24"),
    "run_dsp unpruned": ([*STOCK, *SIZES], "24 of 24"),
    "run_voita": ([*STOCK, *SIZES, "--l0-penalty", 5], "as many as the penalty leaves of 24"),
    "run_diff": (["--criterion", "label_smoothed_cross_entropy"], "24 of 24"),
    "run_dsee": (["--criterion", "label_smoothed_cross_entropy", "--lora-r", 4, *HEADS], "24 of 24"),
    "run_delta": ([*STOCK[2:4], "--delta-methods", "bias,lora"], "24 of 24"),
}

FROM_A_BASE = ("run_diff", "run_dsee", "run_delta")


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_says_what_would_train_and_writes_nothing(name, tiny_data, stock_run, tmp_path):
    own, heads = PROGRAMS[name]
    if name in FROM_A_BASE:
        # one that a program of this plugin has trained: it has options that diff_transformer does not declare
        state = load_checkpoint(str(stock_run / "checkpoint_last.pt"))
        state["cfg"]["model"] = {
            **vars(state["cfg"]["model"]),
            "_name": "dsp_transformer",
            "num_of_heads": None,
        }
        save_checkpoint(state, str(tmp_path / "base.pt"))
        own = [*own, "--base-checkpoint", tmp_path / "base.pt"]
    decay = SETTINGS.index("--weight-decay")  # diff pruning has none
    settings = SETTINGS if name != "run_diff" else SETTINGS[:decay] + SETTINGS[decay + 2 :]
    command = [tiny_data, "--save-dir", tmp_path / "save", "--max-update", 7, *own, *settings, "--dry-run"]
    done = run(str(SCRIPTS / f"{name.split()[0]}.py"), command, tmp_path / "log")
    said = done.succeeded().output
    assert f"heads that stay: {heads}" in said
    assert "120 sentences, 7 updates" in said
    learning, parameters = re.search(r"([\d,]+) of ([\d,]+) parameters would learn", said).groups()
    assert int(learning.replace(",", "")) > 1000 and parameters
    megabytes = float(re.search(r"([\d.]+) MB a checkpoint", said)[1])
    assert 0 < megabytes < 5
    assert not (tmp_path / "save").exists() or not any((tmp_path / "save").rglob("*"))


def test_its_parameters_and_bytes_are_those_of_the_training(tiny_data, tmp_path):
    own, _ = PROGRAMS["run_dsp"]
    program, said, written = str(SCRIPTS / "run_dsp.py"), [], []
    for width in (16, 128):
        widths = ["--encoder-embed-dim", width, "--decoder-embed-dim", width]
        save = tmp_path / str(width)
        command = [tiny_data, "--save-dir", save, "--max-update", 2, *own, *widths, *SETTINGS]
        planned = run(program, [*command, "--dry_run"], tmp_path / "log").succeeded().output
        trained = run(program, command, tmp_path / "log2").succeeded().output
        learning = re.search(r"([\d,]+) of [\d,]+ parameters would learn", planned)[1].replace(",", "")
        assert f"(num. trained: {int(learning):,})" in trained
        said.append(1e6 * float(re.search(r"([\d.]+) MB a checkpoint", planned)[1]))
        written.append((save / "checkpoint_last.pt").stat().st_size)
    # a file has options and names as well, as many at either width: the difference is of tensors alone
    assert said[1] - said[0] == pytest.approx(written[1] - written[0], rel=0.01)


def test_what_the_training_refuses_it_refuses(tiny_data, tmp_path):
    command = [tiny_data, "--save-dir", tmp_path / "save", *STOCK, *SIZES, *SETTINGS, "--num-of-heads", 99]
    done = run(str(SCRIPTS / "run_dsp.py"), [*command, "--joint-pruning", "--dry-run"], tmp_path / "log")
    assert (
        "error: --num-of-heads must be a whole number in 0..24 (heads of the model), got 99" in done.failed()
    )
