"""Delta-Tuning of a translation model as a user types it: stages, generation, resume, refusals."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("fairseq")

from diff_mt import SCRIPTS, SEARCH
from dsee_mt import read_base, scores_of
from fairseq_commands import PACKAGE, run
from fairseq_training import assert_same, checkpoint, train

from dsp_plugin.cli.main import main
from dsp_plugin.delta.artefact import DeltaFile
from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint
from dsp_plugin.mt.programs.chassis.refusals import one_line
from dsp_plugin.mt.translate.translate import load_model, translation_task
from dsp_plugin.options.errors import dashed

# 120 pairs in batches of 30: 4 updates an epoch
RECIPE = (
    "--dropout 0.1 --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --batch-size 30 "
    "--required-batch-size-multiple 1 --cpu --num-workers 0 --no-progress-bar --log-interval 1"
).split()
METHODS = "--adapter-reduction 4 --lora-r 3 --lora-alpha 6".split()
STAGES = "--delta-methods bias,lora adapter --stage-max-update 3 4 --stage-lr 1e-2 2e-2".split()
FILE = "task.delta.safetensors"


@pytest.fixture(scope="module")
def base(stock_run) -> Path:
    return stock_run / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def done(tiny_data, base, tmp_path_factory):
    """(save folder, the command line, what was printed) of two stages: 3 and 4 updates."""
    folder = tmp_path_factory.mktemp("delta")
    words = [tiny_data, "--finetune-from-model", base, *RECIPE, *METHODS, *STAGES]
    words += ["--save-dir", folder / "run"]
    return folder / "run", words, run(str(SCRIPTS / "run_delta.py"), words, folder).succeeded()


def test_the_stages_end_in_files_and_records(done, base, capsys):
    folder, _, finished = done
    first, second, last = (DeltaFile.load(folder / part / FILE) for part in ("1st", "2nd", "."))
    assert {name: part.stage for name, part in first.parts.items()} == {"bias": 1, "lora": 1}
    assert {name: part.stage for name, part in second.parts.items()} == {"bias": 1, "adapter": 2, "lora": 1}
    assert (folder / FILE).read_bytes() == (folder / "2nd" / FILE).read_bytes() == last.to_bytes()
    for name, tensor in first.parts["bias"].tensors.items():  # active and frozen
        assert torch.equal(second.parts["bias"].tensors[name], tensor)
    whole = dict(read_base(str(base)).model().named_parameters())
    assert any(not torch.equal(whole[name], one) for name, one in first.parts["bias"].tensors.items())
    assert all(one.any() for name, one in first.parts["lora"].tensors.items() if name.endswith("up"))
    records = [json.loads((folder / part / "results.json").read_text()) for part in ("1st", "2nd")]
    assert [record["method"] for record in records] == ["delta-bias+lora", "delta-bias+lora-then-adapter"]
    assert [record["updates"] for record in records] == [3, 4]
    for record, file, part in zip(records, (first, second), ("1st", "2nd")):
        account, size = record["extra"]["delta"], (folder / part / FILE).stat().st_size
        assert account["positions"] == file.count and account["bytes"] == size
        learns = [one for one in file.parts.values() if one.stage == account["stage"]]
        assert account["trainable"] == sum(one.count for one in learns)
        assert record["metrics"][0]["name"] == "loss" and record["metrics"][0]["subset"] == "valid"
    flops = [record["extra"]["delta"]["flops"] for record in records]
    assert flops[0]["deployed"] == flops[0]["base"] < flops[1]["deployed"]
    assert f"{first.count:,} numbers learn" in finished.output
    assert main(["delta", "inspect", str(folder / FILE)]) == 0
    told = capsys.readouterr().out
    assert "bias: " in told and "adapter: " in told and "host: fairseq" in told


def test_the_frozen_weights_are_the_base_s_to_the_bit(done, base):
    folder, _, _ = done
    before, first = load_checkpoint(str(base))["model"], checkpoint(folder / "1st")["model"]
    second = checkpoint(folder / "2nd")["model"]
    for name, tensor in before.items():
        assert name.endswith("bias") or torch.equal(tensor, first[name]), name
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert {*second} - {*first} and all(".adapter." in name for name in {*second} - {*first})


def translations(data: Path, folder: Path, path: Path, *options: object, task="delta_translation") -> dict:
    """Sentence number -> (text, score) that `fairseq-generate` gives."""
    words = [data, "--user-dir", PACKAGE, "--task", task, "--path", path, *SEARCH, *options]
    output = run("fairseq_cli.generate", words, folder).succeeded().output
    fields = (line.split("\t") for line in output.splitlines() if line.startswith("H-"))
    return {int(number[2:]): (text, pytest.approx(float(score), abs=1e-4)) for number, score, text in fields}


def test_checkpoint_file_and_merged_checkpoint_translate_alike(done, base, tiny_data, tmp_path):
    path = done[0] / FILE
    live = translations(tiny_data, tmp_path, done[0] / "2nd/checkpoint_best.pt")
    assert len(live) == 12
    assert translations(tiny_data, tmp_path, base, "--delta", path) == live
    # adapters stay modules, and stock fairseq-generate builds them by --user-dir alone
    assert main(["delta", "merge", str(path), str(base), "--out", str(tmp_path / "merged.pt")]) == 0
    stock = {"task": "translation"}  # which leaves out sentences where the last batch is small
    all_of_them = ["--required-batch-size-multiple", 1]
    assert translations(tiny_data, tmp_path, tmp_path / "merged.pt", *all_of_them, **stock) == live
    own = [tiny_data, "--path", base, "--delta", path, *SEARCH, "--record-dir", tmp_path / "record"]
    run(str(SCRIPTS / "generate_dsp.py"), own, tmp_path).succeeded()
    record = json.loads((tmp_path / "record/results.json").read_text())
    told = record["extra"]["delta"]
    assert record["method"] == "delta-bias+lora-then-adapter" and told["bytes"] == path.stat().st_size
    assert told["positions"] == DeltaFile.load(path).count


def test_the_model_of_the_training_reloaded_and_merged(done, base, tiny_data, tmp_path):
    task = translation_task(str(tiny_data), None)
    live = scores_of(load_model(str(done[0] / "1st/checkpoint_best.pt"), task))
    words = ["delta", "merge", str(done[0] / "1st" / FILE), str(base), "--out", str(tmp_path / "plain.pt")]
    assert main(words) == 0
    plain = load_model(str(tmp_path / "plain.pt"), task)
    assert {*plain.state_dict()} == {*read_base(str(base)).model().state_dict()}
    torch.testing.assert_close(scores_of(plain), live, rtol=1e-5, atol=1e-4)


def test_started_again_it_trains_nothing_more(done, tmp_path):
    """Killed after the last update of the last stage, before its file."""
    folder, words, _ = done
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    before = (copy / FILE).read_bytes()
    (copy / "2nd" / FILE).unlink(), (copy / "2nd" / "results.json").unlink(), (copy / FILE).unlink()
    again = run(str(SCRIPTS / "run_delta.py"), [*words, "--save-dir", copy, "--log-interval", 7], tmp_path)
    said = again.succeeded().output
    assert f"{copy / '1st'} is done" in said and "begin training" not in said
    assert (copy / FILE).read_bytes() == before


def test_a_training_that_was_stopped_goes_on_bit_for_bit(done, base, tiny_data, tmp_path):
    folder, _, _ = done
    words = ["--user-dir", PACKAGE, "--task", "delta_translation", "--arch", "delta_transformer", *RECIPE]
    words += ["--finetune-from-model", base, "--delta", folder / "1st" / FILE, "--optimizer", "adam"]
    words += ["--delta-methods", "adapter", "--adapter", "pfeiffer", "--lr", "1e-2"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tiny_data, whole, *words, "--max-update", 6).succeeded()
    for updates in (5, 6):
        train(tiny_data, parts, *words, "--max-update", updates).succeeded()
    assert_same(checkpoint(whole)["model"], checkpoint(parts)["model"])
    assert checkpoint(parts)["optimizer_history"][-1]["num_updates"] == 6
    # as the program packs it, by hand
    out = tmp_path / "by-hand.delta.safetensors"
    packing = [whole / "checkpoint_last.pt", "--base-checkpoint", base, "--out", out]
    run(str(SCRIPTS / "pack_delta.py"), packing, tmp_path).succeeded()
    made = DeltaFile.load(out)
    assert made.config["updates"] == 6 and made.parts["adapter"].settings["adapter"] == "pfeiffer"
    # and not with the file of another first stage
    first = DeltaFile.load(folder / "1st" / FILE)
    next(iter(first.parts["bias"].tensors.values()))[0] += 1
    first.save(tmp_path / "other.safetensors")
    said = train(tiny_data, parts, *words, "--delta", tmp_path / "other.safetensors", "--max-update", 7)
    assert said.returncode != 0 and "from which this training goes on, is of another file" in said.output


@pytest.mark.parametrize(
    "more, message",
    [
        (["--lora-r", "17"], "--lora-r is 17, above the width"),
        (["--adapter-reduction", "17"], "--adapter-reduction is 17, above the width 16"),
        (["--adapter", "parallel"], "--adapter must be houlsby or pfeiffer"),
        (["--delta-methods", "prompt"], "--delta-methods prompt is of Transformers alone"),
        (["--delta-methods", "bias", "diff"], "--delta-methods diff has a task of its own"),
        (["--delta-methods", "bias", "bias"], "--delta-methods has bias twice"),
        (["--delta-methods", "bias", "lora"], "--adapter-reduction says nothing: --delta-methods"),
        (["--stage-lr", "1e-3"], "--stage-lr has 1 numbers for the 2 stages of --delta-methods"),
        (["--stage-lr", "1e-3", "x"], "--stage-lr 0.001 nan: a finite number above 0"),
        (["--stage-max-update", "3", "0.5"], "--stage-max-update .*whole number"),
        (["--delta-targets", "key"], "unrecognized arguments: --delta-targets"),
        (["--finetune-from-model", "/nowhere.pt"], "--base-checkpoint /nowhere.pt: no such file"),
        (["--delta", "x.safetensors"], "--delta cannot be given"),
        (["--task", "translation"], "--task translation: deltas are trained by delta_translation"),
        (["--lora-alpha", "7"], r"holds a training with other settings \(--lora-alpha: 6.0 there, 7.0 here"),
        (["--save-dir", "/dev/null"], "--save-dir /dev/null is a device"),
    ],
)
def test_run_delta_refuses(done, more, message):
    from dsp_plugin.mt.programs.delta.run import run_delta

    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        run_delta([str(word) for word in [*done[1], *more]])
    assert re.search(message, one_line(refused.value, dashed)), one_line(refused.value, dashed)


def test_a_second_stage_knows_its_first(done, tmp_path):
    """The first one removed, and to be trained otherwise."""
    from dsp_plugin.mt.programs.delta.run import run_delta

    copy = tmp_path / "run"
    shutil.copytree(done[0], copy)
    shutil.rmtree(copy / "1st")
    words = [*done[1], "--save-dir", copy, "--stage-max-update", 2, 4]
    with pytest.raises(ValueError, match="2nd holds a training with other settings .*stage-before"):
        run_delta([str(word) for word in words])


def test_the_shell_pipeline_goes_from_a_base_to_bleu(tiny_data, base, tmp_path):
    settings = {
        "DATA_BIN": tiny_data,
        "UNPRUNED": base,
        "SAVE_DIR": tmp_path / "run",
        "PYTHON": sys.executable,
    }
    settings |= {
        "METHODS": "bias,adapter",
        "UPDATES": 2,
        "SUBSETS": "test",
        "REDUCTION": 4,
        "RECORD_NAME": "tiny",
    }
    settings |= {"FLAGS": "--cpu --num-workers 0", "DELTA_FLAGS": "--validate-interval-updates 2"}
    environment = {**os.environ, **{name: str(value) for name, value in settings.items()}}
    done = subprocess.run([SCRIPTS / "delta.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    file, merged = tmp_path / "run" / FILE, tmp_path / "run/merged.pt"
    assert {*DeltaFile.load(file).parts} == {"bias", "adapter"} and merged.is_file()
    record = json.loads((tmp_path / "run/records/test/results.json").read_text())
    assert (record["method"], record["name"], record["seed"]) == ("delta-bias+adapter", "tiny", 1)
    assert {metric["name"] for metric in record["metrics"]} >= {"BLEU"}
