"""The methods after DSP by the command lines a user types: trained, resumed with the same end, pruned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("fairseq")

from fairseq_commands import run
from fairseq_training import STOCK, assert_same, checkpoint

from dsp_plugin.records.kept_heads import mask_of

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts/mt"
K = 6

# name: (program, its options, the method's name in the record)
METHODS = {
    "simple": (
        "run_dsp.py",
        "--sampler simple --mask-samples 3 --pruning-lr 0.3 --annealing --cooldown-steps 4",
        "dsp-simple",
    ),
    "lagrangian": (
        "run_voita.py",
        "--closing lagrangian --pruning-lr 0.3 --closing-updates 4",
        "voita-lagrangian",
    ),
    # an epoch, and so a round, has 4 updates; gates are at -5 and 5 before
    "passconc": ("run_voita.py", "--closing pass --concentrate --pruning-lr 3", "voita-passconc"),
    "reopened": (
        "run_voita.py",
        "--l0-penalty 200 --reopening reopen --round-updates 2 --pruning-lr 4",
        "voita-reopen",
    ),
}


def train(method: str, data, folder, last: int):
    program, words, _ = METHODS[method]
    flags = [*words.split(), "--num-of-heads", K, "--joint-pruning", "--max-update", last]
    return run(str(SCRIPTS / program), [data, "--save-dir", folder, *STOCK, *flags], folder).succeeded()


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_training_ends_as_an_uninterrupted_one(method, tiny_data, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for folder in (whole, halves):
        folder.mkdir()
    train(method, tiny_data, whole, 6)
    for last in (3, 6):
        train(method, tiny_data, halves, last)
    resumed, expected = checkpoint(halves), checkpoint(whole)
    assert_same(resumed["model"], expected["model"], "model")
    assert_same(resumed["last_optimizer_state"], expected["last_optimizer_state"], "optimizer")
    record = json.loads((whole / "results.json").read_text())
    assert record["method"] == METHODS[method][2]
    assert sum(mask_of(record["heads"])) == K
