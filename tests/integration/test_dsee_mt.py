"""DSEE of a translation model by the command lines a user types: stages, generation, resume, refusals."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("fairseq")

from diff_mt import SCRIPTS, SEARCH
from dsee_mt import read_base, scores_of
from fairseq_commands import PACKAGE, run
from fairseq_training import assert_same, checkpoint, train, train_in_two_processes, weights_recorder

from dsp_plugin.cli.main import main
from dsp_plugin.dsee.artefact import DseeFile
from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint
from dsp_plugin.mt.dsee.merging import merge_into
from dsp_plugin.mt.programs.chassis.refusals import one_line
from dsp_plugin.mt.translate.translate import load_model, translation_task
from dsp_plugin.options.errors import dashed

# 120 pairs in batches of 30: 4 updates an epoch
RECIPE = (
    "--lr 1e-2 --dropout 0.1 --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --batch-size 30 "
    "--required-batch-size-multiple 1 --cpu --num-workers 0 --no-progress-bar --log-interval 1"
).split()
UPDATE = "--lora-r 3 --lora-alpha 6 --num-sparse 5".split()
PRUNING = (
    "--prune-heads-num 1 --prune-neurons 0.25 --neurons 5 --pruning-ratio 0.2 --ad-pruning-ratio 0.3".split()
)
FILE = "task.dsee.safetensors"


@pytest.fixture(scope="module")
def base(stock_run) -> Path:
    return stock_run / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def done(tiny_data, base, tmp_path_factory):
    """(save folder, the command line, what was printed) of all three stages: 3 and 4 updates."""
    folder = tmp_path_factory.mktemp("dsee")
    words = [tiny_data, "--finetune-from-model", base, *RECIPE, *UPDATE, *PRUNING, "--max-update", 3]
    words += ["--third-max-update", 4, "--third-lr", 2e-2, "--save-dir", folder / "run"]
    return folder / "run", words, run(str(SCRIPTS / "run_dsee.py"), words, folder).succeeded()


def files(folder: Path) -> list[DseeFile]:
    return [DseeFile.load(folder / part / FILE) for part in ("1st", "2nd", "3rd")]


def test_the_stages_end_in_files_and_records(done, base):
    folder, _, finished = done
    first, second, third = files(folder)
    assert first.kept is None and not first.masks and len(first.updates) == 12
    assert {len(kept) for kept in second.kept.values()} == {3} and set(second.groups.values()) == {5}
    assert (third.kept, third.masks, third.groups) == (second.kept, second.masks, second.groups)
    assert any(not torch.equal(third.updates[name].up, one.up) for name, one in second.updates.items())
    records = [json.loads((folder / part / "results.json").read_text()) for part in ("1st", "2nd", "3rd")]
    labels = [record["method"] for record in records]
    assert labels == [
        "dsee",
        "dsee-h1-n0.25-w0.2-q0.3-WABS-untuned".replace("-WABS", ""),
        "dsee-h1-n0.25-w0.2-q0.3",
    ]
    whole = sum(one.numel() for one in read_base(str(base)).model().parameters())
    for record, file, part in zip(records, files(folder), ("1st", "2nd", "3rd")):
        account = record["extra"]["dsee"]
        assert account["trainable"] == file.count and account["base_weights"] == whole
        assert account["bytes"] == (folder / part / FILE).stat().st_size
        assert record["metrics"][0]["name"] == "loss" and record["metrics"][0]["subset"] == "valid"
    lost = [record["extra"]["dsee"]["weights_left"] for record in records]
    assert lost[0] == whole > lost[1] == lost[2]
    flops = [record["extra"]["dsee"]["flops"] for record in records]
    assert flops[0]["deployed"] == flops[0]["base"] > flops[1]["deployed"] == flops[2]["deployed"]
    assert [record["updates"] for record in records] == [3, 0, 4]
    assert f"{first.count:,} numbers learn" in finished.output


def test_the_frozen_weights_are_the_base_s_to_the_bit_and_zeros_stay(done, base):
    """Through all updates of stages I and III."""
    folder, _, _ = done
    before, first = load_checkpoint(str(base))["model"], checkpoint(folder / "1st")["model"]
    for name, tensor in before.items():
        assert torch.equal(tensor, first[name]), name
    third, masks = checkpoint(folder / "3rd")["model"], files(folder)[1].masks
    assert masks
    for name, mask in masks.items():
        gone = ~mask.mask()
        assert bool(gone.any()) and not bool(third[name][gone].any()), name
        assert torch.equal(third[name][~gone] != 0, torch.ones(int((~gone).sum()), dtype=torch.bool))


def translations(data: Path, folder: Path, path: Path, *options: object) -> dict:
    """Sentence number -> (text, score) that `fairseq-generate` gives."""
    words = [data, "--user-dir", PACKAGE, "--task", "dsee_translation", "--path", path, *SEARCH, *options]
    output = run("fairseq_cli.generate", words, folder).succeeded().output
    fields = (line.split("\t") for line in output.splitlines() if line.startswith("H-"))
    return {int(number[2:]): (text, pytest.approx(float(score), abs=1e-4)) for number, score, text in fields}


def test_checkpoint_and_file_translate_alike(done, base, tiny_data, tmp_path):
    path = done[0] / "3rd" / FILE
    live = translations(tiny_data, tmp_path, done[0] / "3rd/checkpoint_best.pt")
    assert len(live) == 12
    assert translations(tiny_data, tmp_path, base, "--dsee-checkpoint", path) == live
    own = [tiny_data, "--path", base, "--dsee-checkpoint", path, *SEARCH, "--record-dir", tmp_path / "record"]
    run(str(SCRIPTS / "generate_dsp.py"), own, tmp_path).succeeded()
    record = json.loads((tmp_path / "record/results.json").read_text())
    told = record["extra"]["dsee"]
    assert record["method"] == "dsee-h1-n0.25-w0.2-q0.3" and told["bytes"] == path.stat().st_size
    assert record["parameters"]["after"] < record["parameters"]["before"]


def test_the_merged_checkpoint_is_the_model_of_the_training(done, base, tiny_data, tmp_path):
    path, task = done[0] / "3rd" / FILE, translation_task(str(tiny_data), None)
    live = scores_of(load_model(str(done[0] / "3rd/checkpoint_best.pt"), task))
    for masked in (False, True):
        words = ["dsee", "merge", str(path), str(base), "--out", str(tmp_path / f"{masked}.pt")]
        assert main([*words, *["--masked"] * masked]) == 0
    merged = load_model(str(tmp_path / "False.pt"), task)
    torch.testing.assert_close(scores_of(merged), live, rtol=1e-5, atol=1e-4)
    sparse = dict(load_model(str(tmp_path / "True.pt"), task).named_parameters())
    for name, mask in DseeFile.load(path).masks.items():
        assert not bool(sparse[name][~mask.mask()].any())


def test_started_again_it_trains_nothing_more(done, tmp_path):
    """Killed after the last update of stage III, before its file, and within stage II."""
    folder, words, _ = done
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    before = {part: (copy / part / FILE).read_bytes() for part in ("1st", "2nd", "3rd")}
    (copy / "3rd" / FILE).unlink(), (copy / "3rd" / "results.json").unlink()
    (copy / "2nd" / FILE).unlink()
    again = run(str(SCRIPTS / "run_dsee.py"), [*words, "--save-dir", copy, "--log-interval", 7], tmp_path)
    said = again.succeeded().output
    assert f"{copy / '1st'} is done" in said and "begin training" not in said
    for part, raw in before.items():
        assert (copy / part / FILE).read_bytes() == raw, part


def test_a_training_that_was_stopped_goes_on_bit_for_bit(done, base, tiny_data, tmp_path):
    folder, _, _ = done
    words = ["--user-dir", PACKAGE, "--task", "dsee_translation", "--arch", "dsee_transformer", *RECIPE]
    words += ["--base-checkpoint", base, "--dsee-checkpoint", folder / "2nd" / FILE, "--optimizer", "adam"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tiny_data, whole, *words, "--max-update", 6).succeeded()
    for updates in (5, 6):
        train(tiny_data, parts, *words, "--max-update", updates).succeeded()
    assert_same(checkpoint(whole)["model"], checkpoint(parts)["model"])
    assert checkpoint(parts)["optimizer_history"][-1]["num_updates"] == 6
    # as the program packs it, by hand
    out = tmp_path / "by-hand.dsee.safetensors"
    packing = [whole / "checkpoint_last.pt", "--base-checkpoint", base, "--out", out]
    run(str(SCRIPTS / "pack_dsee.py"), packing, tmp_path).succeeded()
    made = DseeFile.load(out)
    assert made.kept == files(folder)[1].kept and made.config["updates"] == 6
    merge_into(read_base(str(base)), made)


def test_two_processes_train_the_same_update(base, tiny_data, tmp_path):
    words = ["--user-dir", PACKAGE, "--task", "dsee_translation", "--arch", "dsee_transformer", *RECIPE]
    words += ["--base-checkpoint", base, *UPDATE, "--optimizer", "adam", "--max-update", 2]
    program = weights_recorder(tmp_path)
    for done in train_in_two_processes(tiny_data, tmp_path, *words, program=program):
        done.succeeded()
    one, other = (torch.load(tmp_path / f"rank{rank}/weights.pt") for rank in range(2))
    assert_same(one, other)
    before = load_checkpoint(str(base))["model"]
    assert all(torch.equal(tensor, one[name]) for name, tensor in before.items())
    assert any(bool(tensor.any()) for name, tensor in one.items() if name.endswith("update.up"))


def test_a_pruning_of_another_kind_does_not_find_its_stage_iii_done(done, tmp_path):
    from dsp_plugin.mt.programs.dsee.run import run_dsee

    folder, words, _ = done
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "2nd")
    with pytest.raises(ValueError, match=f"{copy}/3rd holds a training with other settings .*pruning"):
        run_dsee([str(word) for word in [*words, "--save-dir", copy, "--prune-heads-num", 2]])


@pytest.mark.parametrize(
    "more, message",
    [
        (["--lora-r", "17"], "--lora-r is 17, above the width"),
        (["--num-sparse", "1000"], "--num-sparse is 1000 entries a matrix"),
        (["--pruning-ratio", "1"], "--pruning-ratio must be a share from 0 to below 1|--pruning-ratio 1.0"),
        (["--ad-pruning-ratio", "x"], "--ad-pruning-ratio must be a share"),
        (["--prune-heads-num", "4"], "--prune-heads-num.* leaves nothing of encoder.layers.0.self_attn"),
        (["--neurons", "3"], "--neurons 3: it must divide"),
        (["--prune-mode", "BEST"], "--prune-mode must be one of W, AB"),
        (["--dsee-targets", "key"], "--prune-heads-num ranks heads by what query and value"),
        (["--third-lr", "0"], "--third-lr must be above 0"),
        (["--finetune-from-model", "/nowhere.pt"], "--base-checkpoint /nowhere.pt: no such file"),
        (["--restore-file", "x.pt"], "--restore-file cannot be given"),
        (["--task", "translation"], "--task translation: updates are trained by dsee_translation"),
        (["--max-update", "9"], r"holds a training with other settings \(--max-update: 3 there, 9 here"),
        (["--prune-heads-num", "2"], "was pruned with other settings"),
        (["--save-dir", "/dev/null"], "--save-dir /dev/null is a device"),
        (["--save-dir", "new", "--label-smoothing", "2"], "--label-smoothing 2.0"),
    ],
)
def test_run_dsee_refuses(done, more, message):
    from dsp_plugin.mt.programs.dsee.run import run_dsee

    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        run_dsee([str(word) for word in [*done[1], *more]])
    assert re.search(message, one_line(refused.value, dashed)), one_line(refused.value, dashed)
