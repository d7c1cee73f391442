"""Heads removed by importance, by the command lines a user types: the sweep, its resume, tuning, refusals."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("fairseq")

from fairseq_commands import PACKAGE, Command, run
from fairseq_training import SETTINGS, SIZES, checkpoint, train, train_in_two_processes

from dsp_plugin.cli.main import main as dsp
from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint
from dsp_plugin.mt.heads.checkpoint_heads import heads_of_checkpoint
from dsp_plugin.mt.translate.translate import load_model, translate, translation_task
from dsp_plugin.records.record import load_record

SCRIPT = str(PACKAGE.parent / "scripts" / "mt" / "run_michel.py")
# as written by its users, but for the architecture's sizes
COMMAND = [
    "-s",
    "de",
    "-t",
    "en",
    "-a",
    "transformer",
    *SIZES,
    "--optimizer",
    "adam",
    "--adam-betas",
    "(0.9,0.98)",
]
COMMAND += ["--reset-optimizer", "--batch-size", 32, "--beam", 2, "--remove-bpe", "--max-len-b", 10, "--cpu"]
MICHEL = [
    "--user-dir",
    PACKAGE,
    "--task",
    "michel_translation",
    "--arch",
    "michel_transformer",
    "--optimizer",
    "adam",
]
MICHEL += ["--criterion", "label_smoothed_cross_entropy", *SIZES, *SETTINGS, "--num-of-heads", 6]
N, K = 24, 6


def sweep(data: Path, stock_run: Path, folder: Path, *options: object, **more):
    arguments = [
        data,
        *COMMAND,
        "--restore-file",
        stock_run / "checkpoint_last.pt",
        "--save-dir",
        folder / "sweep",
        *options,
    ]
    return run(SCRIPT, arguments, folder, **more)


EXACT = ["--num-of-heads", 10, "--exact-pruning", "--budgets", 7]


@pytest.fixture(scope="module")
def swept(tiny_data, stock_run, tmp_path_factory):
    """(folder, what was printed) of an exact sweep 24, 14, 7."""
    folder = tmp_path_factory.mktemp("michel")
    return folder / "sweep", sweep(tiny_data, stock_run, folder, *EXACT).succeeded().output


def steps(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("step-*.json"))]


def test_what_a_sweep_leaves_behind(swept):
    folder, printed = swept
    found = steps(folder)
    assert [step["kept"] for step in found] == [24, 14, 7] == [sum(step["keep"]) for step in found]
    for before, after in zip(found, found[1:]):
        gone = [h for h in range(N) if before["keep"][h] and not after["keep"][h]]
        assert sorted(after["removed"]) == gone
        # those with the smallest importance, of the heads that were left
        left = [after["importance"][h] for h in range(N) if before["keep"][h]]
        assert max(after["importance"][h] for h in gone) <= sorted(left)[len(gone)]
        assert list(after["scores"]) == ["valid"] and "tok:13a" in after["scores"]["valid"]["signature"]
    assert found[1]["importance"] != found[2]["importance"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "mask-K7.json",
        "results.json",
        "step-00.json",
        "step-01.json",
        "step-02.json",
    ]
    record = load_record(folder / "results.json")
    assert (record.kind, record.method, record.heads["kept"]) == ("mt-michel", "michel", 7)
    assert record.extra["importance_sentences"] == 120 and [
        entry["kept"] for entry in record.extra["curve"]
    ] == [24, 14, 7]
    assert record.metric("BLEU", "valid, K=14").value == found[1]["scores"]["valid"]["value"]
    ignored = re.search(r"without a meaning here, so ignored: (.*)", printed)[1].split()
    assert {"--optimizer", "--adam-betas", "--reset-optimizer"} <= set(ignored) and "--beam" not in ignored
    assert "7 of 24 heads kept" in printed and re.search(r"BLEU +valid", printed)


def test_the_sweep_starts_from_the_score_of_the_whole_model(tiny_data, stock_run, swept, tmp_path):
    """The same figure as generate_dsp.py's."""
    arguments = [
        tiny_data,
        "-s",
        "de",
        "-t",
        "en",
        "--path",
        stock_run / "checkpoint_last.pt",
        "--gen-subset",
        "valid",
    ]
    arguments += [
        "--batch-size",
        32,
        "--beam",
        2,
        "--remove-bpe",
        "--max-len-b",
        10,
        "--cpu",
        "--quiet",
        "--record-dir",
        "out",
    ]
    arguments += ["--results-path", "text"]
    run(str(PACKAGE.parent / "scripts/mt/generate_dsp.py"), arguments, tmp_path).succeeded()
    expected = load_record(tmp_path / "out/results.json").metric("BLEU", "valid").value
    assert steps(swept[0])[0]["scores"]["valid"]["value"] == pytest.approx(expected, abs=1e-9)
    assert "BLEU4 = " in (tmp_path / "text/generate-valid.txt").read_text()  # fairseq's own line


def test_a_sweep_goes_on_where_it_stopped(tiny_data, stock_run, swept, tmp_path):
    shutil.copytree(swept[0], tmp_path / "sweep")
    (tmp_path / "sweep/step-02.json").unlink()
    again = sweep(tiny_data, stock_run, tmp_path, *EXACT).succeeded().output
    assert "going on from step 1 of 2" in again
    assert steps(tmp_path / "sweep") == steps(swept[0])
    other = sweep(tiny_data, stock_run, tmp_path, *EXACT, "--importance-samples", 50).failed()
    assert "other settings (samples: None there, 50 here)" in other and "--save-dir" in other


def test_killed_at_any_moment_it_goes_on(tiny_data, stock_run, tmp_path):
    options = [
        "--num-of-heads",
        1,
        "--exact-pruning",
        "--no-scores",
        "--importance-samples",
        20,
        "--budgets",
        12,
    ]
    arguments = [
        tiny_data,
        *COMMAND,
        "--restore-file",
        stock_run / "checkpoint_last.pt",
        *options,
        "--save-dir",
    ]
    running = Command(SCRIPT, [*arguments, tmp_path / "killed"], tmp_path)
    deadline = time.time() + 120
    while not (tmp_path / "killed/step-03.json").exists():
        assert time.time() < deadline and running.process.is_alive(), running.log.read_text()
        time.sleep(0.005)
    os.kill(running.process.pid, signal.SIGKILL)
    assert running.wait().returncode == -signal.SIGKILL
    run(SCRIPT, [*arguments, tmp_path / "killed"], tmp_path).succeeded()
    run(SCRIPT, [*arguments, tmp_path / "whole"], tmp_path).succeeded()
    assert len(steps(tmp_path / "whole")) == 13 and steps(tmp_path / "killed") == steps(tmp_path / "whole")


def test_the_mask_of_a_budget_prunes(swept, stock_run, tmp_path):
    small = tmp_path / "small.pt"
    assert (
        dsp(
            [
                "prune",
                str(stock_run / "checkpoint_last.pt"),
                "--mask",
                str(swept[0] / "mask-K7.json"),
                "--out",
                str(small),
            ]
        )
        == 0
    )
    assert heads_of_checkpoint(load_checkpoint(str(small))).head_map.num_heads == 7


def test_baselines_and_constraints(tiny_data, stock_run, tmp_path):
    options = [
        "--num-of-heads",
        9,
        "--no-scores",
        "--rank-by",
        "random",
        "--seed",
        3,
        "--min-heads-per-block",
        1,
    ]
    options += ["--heads-per-kind", "encoder-self=2,decoder-cross=4,decoder-self=2", "--budgets", 10]
    sweep(tiny_data, stock_run, tmp_path, *options, "--record-name", "tiny", "--method", "chance").succeeded()
    assert [step["kept"] for step in steps(tmp_path / "sweep")] == [24, 15, 10, 8]
    assert sorted(path.name for path in (tmp_path / "sweep").glob("mask-*")) == [
        "mask-K10.json",
        "mask-K8.json",
    ]
    keep, kinds = steps(tmp_path / "sweep")[-1]["keep"], {}
    for position, block in enumerate(steps(tmp_path / "sweep")[-1]["blocks"]):
        mine = sum(keep[4 * position : 4 * position + 4])
        assert mine >= 1
        kinds[block["kind"]] = kinds.get(block["kind"], 0) + mine
    assert kinds == {"encoder-self": 2, "decoder-cross": 4, "decoder-self": 2}
    record = load_record(tmp_path / "sweep/results.json")
    assert (record.name, record.method) == ("tiny", "chance")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--num-of-heads", 25], r"--num-of-heads.*1\.\.24.*25"),
        (["--num-of-heads", 0], r"--num-of-heads.*1\.\.24.*0"),
        ([], "--num-of-heads is missing: give"),
        (["--num-of-heads", 4, "--budgets", 12, 25], r"--budgets.*0\.\.24.*25"),
        (["--num-of-heads", 4, "--eval-subset", "dev"], r"--eval-subset dev: .*there are test, train, valid"),
        (["--num-of-heads", 4, "--importance-subset", "dev"], "--importance-subset dev"),
        (["--num-of-heads", 4, "--encoder-layers", 3], "encoder_layers: 2 there, 3 here"),
        (["--num-of-heads", 4, "--restore-file", "nowhere.pt"], "no checkpoint at nowhere.pt"),
        (
            ["--num-of-heads", 4, "--importance-samples", 0],
            "--importance-samples 0: a whole number, 1 or more",
        ),
        (
            ["--num-of-heads", 4, "--budgets", 3, "--min-heads-per-block", 1],
            "--min-heads-per-block 1 needs 6 heads",
        ),
    ],
    ids=[
        "step",
        "no-step",
        "none",
        "budget",
        "subset",
        "importance-subset",
        "sizes",
        "no-file",
        "samples",
        "minimum",
    ],
)
def test_options_that_cannot_be(tiny_data, stock_run, tmp_path, options, message):
    said = sweep(tiny_data, stock_run, tmp_path, *options).failed().strip().splitlines()[-1]
    assert re.search(message, said) and said.startswith("run_michel.py: error:"), said
    assert not (tmp_path / "sweep").exists()


def test_a_damaged_checkpoint(tiny_data, stock_run, tmp_path):
    whole = (stock_run / "checkpoint_last.pt").read_bytes()
    (tmp_path / "damaged.pt").write_bytes(whole[: len(whole) // 2])
    said = sweep(
        tiny_data, stock_run, tmp_path, "--num-of-heads", 4, "--restore-file", tmp_path / "damaged.pt"
    ).failed()
    assert "damaged.pt is damaged" in said


# ---- michel_translation: chosen before the first update, then tuned


def tune(data: Path, stock_run: Path, folder: Path, *options: object):
    return train(data, folder, *MICHEL, "--finetune-from-model", stock_run / "checkpoint_last.pt", *options)


def kept(state) -> list[int]:
    return heads_of_checkpoint(state).keep.nonzero().flatten().tolist()


def test_tuning_keeps_the_heads_that_the_sweep_finds(tiny_data, stock_run, tmp_path):
    """By plain fairseq with its own Adam and criterion; and what was chosen stays, over a resume too."""
    exact = ["--exact-pruning", "--heads-per-step", 9]
    first = tune(tiny_data, stock_run, tmp_path, *exact, "--max-update", 1).succeeded().output
    assert "choosing 6 of 24 heads by importance, exactly" in first
    before = checkpoint(tmp_path)
    options = ["--num-of-heads", 9, "--exact-pruning", "--budgets", K, "--no-scores", "--batch-size", 30]
    sweep(tiny_data, stock_run, tmp_path, *options).succeeded()
    expected = steps(tmp_path / "sweep")[-1]
    assert [flag for flag in heads_of_checkpoint(before).keep.tolist()] == expected["keep"]
    # fewer heads, asked for later: those that were left at that point of the sweep
    assert heads_of_checkpoint(before, 15).keep.tolist() == steps(tmp_path / "sweep")[1]["keep"]

    again = tune(tiny_data, stock_run, tmp_path, *exact, "--max-update", 4).succeeded().output
    assert "choosing" not in again
    after = checkpoint(tmp_path)
    assert after["optimizer_history"][-1]["num_updates"] == 4
    assert kept(after) == kept(before) and len(kept(after)) == K
    assert torch.equal(after["model"]["gating.gates.scores"], before["model"]["gating.gates.scores"])
    moved = [name for name, value in after["model"].items() if not torch.equal(value, before["model"][name])]
    assert any("fc1" in name for name in moved)

    # and the heads are gone from what it computes: surgery changes nothing
    assert dsp(["prune", str(tmp_path / "checkpoint_last.pt"), "--out", str(tmp_path / "small.pt")]) == 0
    task = translation_task(str(tiny_data), "test")
    masked, small = (
        translate(
            load_model(str(tmp_path / name), task).double(), task, "test", beam=2, max_len_a=0, max_len_b=10
        )
        for name in ("checkpoint_last.pt", "small.pt")
    )
    assert [t.tokens for t in masked] == [t.tokens for t in small] and len(small) == 12


def test_two_processes_choose_the_same_heads(tiny_data, stock_run, tmp_path):
    flags = [
        *MICHEL,
        "--finetune-from-model",
        stock_run / "checkpoint_last.pt",
        "--max-update",
        1,
        "--batch-size",
        15,
    ]
    for rank in train_in_two_processes(tiny_data, tmp_path / "two", *flags):
        rank.succeeded()
    train(tiny_data, tmp_path / "one", *flags).succeeded()
    assert kept(checkpoint(tmp_path / "two")) == kept(checkpoint(tmp_path / "one"))


def test_the_random_baseline(tiny_data, stock_run, tmp_path):
    chosen = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        tune(
            tiny_data, stock_run, folder, "--rank-by", "random", "--seed", seed, "--max-update", 1
        ).succeeded()
        chosen.append(kept(checkpoint(folder)))
    assert chosen[0] != chosen[1] and len(chosen[0]) == len(chosen[1]) == K


@pytest.mark.parametrize(
    "options, message",
    [
        (["--rank-by", "luck"], "--rank-by must be one of importance, magnitude, random"),
        (["--joint-pruning"], "--joint-pruning has no meaning"),
        (["--heads-per-step", 0], "--heads-per-step 0: a whole number, 1 or more"),
        (["--num-of-heads", 25], r"--num-of-heads.*0\.\.24"),
        (
            ["--finetune-from-model", ""],
            "heads are ranked by what they do in a trained model.*--finetune-from-model",
        ),
    ],
    ids=["rank", "joint", "step", "budget", "no-model"],
)
def test_tuning_that_cannot_be(tiny_data, stock_run, tmp_path, options, message):
    finished = tune(tiny_data, stock_run, tmp_path, *options, "--max-update", 1)
    assert re.search(message, finished.failed()) and "begin training epoch" not in finished.output
