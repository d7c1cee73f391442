"""`--tune_epochs` of the training programs on Transformers: a model is trained, pruned and tuned by one
command.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from glue_folders import write_task
from hf_programs import HEADS, mnli, start, write_bert

from dsp_plugin.hf import load_pruned
from dsp_plugin.hf.folders.model_heads import heads_of
from dsp_plugin.records.record import load_record

EPOCH = 6  # updates
DSP = "--do_train --do_eval --num_train_epochs 1 --num_of_heads 3 --joint_pruning --use_ste".split()
TUNE = "--tune_epochs 1.5 --tune_learning_rate 2e-3".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tuning")
    write_bert(folder / "bert")
    write_task(folder / "MNLI", "MNLI", train=48, dev=9)
    return folder


@pytest.fixture(scope="module")
def command(folder) -> list:
    return [*mnli(folder), *DSP, *TUNE, "--save_steps", 4]


@pytest.fixture(scope="module")
def tuned(folder, command) -> Path:
    """The folder of a whole run, read by the tests."""
    start("glue/run_dsp", *command, "--output_dir", folder / "dsp")
    return folder / "dsp"


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_smaller_model_is_trained_as_the_plain_program_would_train_it(folder, tuned):
    words = [*mnli(folder, "dsp/pruned"), "--do_train", "--num_train_epochs", 1.5, "--learning_rate", 2e-3]
    start("glue/run_glue", *words, "--warmup_steps", 0.1, "--output_dir", folder / "by-hand")
    assert weights(tuned / "tuned") == weights(folder / "by-hand") != weights(tuned / "pruned")


def test_what_was_removed_stays_removed(tuned):
    before, after = (load_record(tuned / name / "results.json") for name in (".", "tuned"))
    assert heads_of(load_pruned(tuned / "tuned")) == before.heads == after.heads
    assert before.heads["kept"] == 3 and after.parameters == before.parameters
    assert (before.updates, after.updates) == (EPOCH, EPOCH * 1.5)


def test_both_models_have_records(tuned):
    for split in (".", "dev_matched", "dev_mismatched"):
        before, after = (load_record(tuned / part / split / "results.json") for part in (".", "tuned"))
        assert (before.method, after.method) == ("dsp-ste", "dsp-ste-tuned")
        assert before.kind == after.kind == ("glue-train" if split == "." else "glue-score")


def test_started_again_it_changes_nothing_and_says_both_scores(folder, tuned, command, capsys):
    names = ["pruned/model.safetensors", "results.json", "tuned/model.safetensors", "tuned/results.json"]
    before = {name: (tuned / name).read_bytes() for name in names}
    start("glue/run_dsp", *command, "--output_dir", tuned)
    said = capsys.readouterr().out
    assert f"going on from {tuned / 'tuned' / 'checkpoint-9'}" in said
    assert all((tuned / name).read_bytes() == content for name, content in before.items())
    last = said.splitlines()[-5:]
    old, new = (load_record(tuned / name / "dev_matched" / "results.json") for name in (".", "tuned"))
    assert last[0] == (
        f"| tuned for 9 updates: dsp-ste in {tuned / 'pruned'}, dsp-ste-tuned in {tuned / 'tuned'}"
    )
    assert last[1] == (
        f"| accuracy on dev_matched: {old.metrics[0].value:.2f} % before tuning, "
        f"{new.metrics[0].value:.2f} % after"
    )
    assert last[3] == (
        f"| 3 of {HEADS} heads, {new.parameters['after']:,} of {new.parameters['before']:,} parameters"
    )
    assert last[4] == f"| records: {tuned}, {tuned / 'tuned'}"


@pytest.mark.parametrize("part, checkpoint", [(".", "checkpoint-6"), ("tuned", "checkpoint-9")])
def test_a_run_that_was_killed_goes_on_to_the_same_model(tuned, command, tmp_path, capsys, part, checkpoint):
    shutil.copytree(tuned, tmp_path / "dsp")
    killed = tmp_path / "dsp" / part
    if part == ".":
        shutil.rmtree(killed / "tuned")
        shutil.rmtree(killed / "pruned")
    else:
        shutil.rmtree(killed / "checkpoint-8")
    shutil.rmtree(killed / checkpoint)
    for path in [*killed.glob("*.json"), *killed.glob("dev_*/results.json"), killed / "model.safetensors"]:
        if path.name != "settings.json":
            path.unlink()
    start("glue/run_dsp", *command, "--output_dir", tmp_path / "dsp")
    assert f"going on from {killed / 'checkpoint-4'}" in capsys.readouterr().out
    assert weights(tmp_path / "dsp" / "tuned") == weights(tuned / "tuned")
    assert load_record(killed / "results.json").updates == (EPOCH if part == "." else 9)


def test_other_settings_of_the_tuning_are_refused_before_anything_is_trained(tuned, command):
    with pytest.raises(SystemExit, match=r"tuned holds a training.*num_train_epochs: 1.5 there, 2.0 here"):
        start("glue/run_dsp", *command, "--tune_epochs", 2, "--output_dir", tuned)


def test_a_training_that_is_over_is_tuned_when_that_is_asked_for_later(folder, capsys):
    words = [*mnli(folder), "--do_train", "--max_steps", 3, "--output_dir", folder / "plain"]
    start("glue/run_glue", *words)
    weights_before = weights(folder / "plain")
    start("glue/run_glue", *words, "--tune_epochs", 0.5)
    assert f"going on from {folder / 'plain' / 'checkpoint-3'}" in capsys.readouterr().out
    record = load_record(folder / "plain" / "tuned" / "results.json")
    assert (record.method, record.updates, record.heads["kept"]) == ("unpruned-tuned", EPOCH // 2, HEADS)
    assert weights(folder / "plain") == weights_before != weights(folder / "plain" / "tuned")
    # an earlier model's tuning does not outlive it
    start("glue/run_glue", *words, "--tune_epochs", 0.25, "--seed", 7, "--overwrite_output_dir")
    assert f"{folder / 'plain' / 'tuned'}, trained from an earlier model, removed" in capsys.readouterr().out
    assert load_record(folder / "plain" / "tuned" / "results.json").updates == 2


def test_a_folder_of_other_things_is_not_tuned_into(folder, tmp_path):
    (tmp_path / "out" / "tuned").mkdir(parents=True)
    (tmp_path / "out" / "tuned" / "thesis.tex").write_text("")
    words = [*mnli(folder), "--do_train", "--max_steps", 1, "--tune_epochs", 1]
    with pytest.raises(SystemExit, match="tuned is not empty and has no checkpoint to go on from"):
        start("glue/run_glue", *words, "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out" / "settings.json").exists()


def test_records_names_and_the_dry_run(folder, capsys):
    words = [*mnli(folder), "--do_train", "--max_steps", 2, "--num_of_heads", 5, "--method", "mine"]
    words += ["--pruning_lr", 0.1]
    words += ["--tune_epochs", 1, "--output_dir", folder / "voita", "--record_dir", folder / "records"]
    start("glue/run_voita", *words, "--dry_run")
    said = capsys.readouterr().out
    assert "dry run: 48 examples, 2 updates" in said
    assert (
        f"dry run: then 1 epoch of {folder / 'voita' / 'pruned'} in {folder / 'voita' / 'tuned'}: "
        "6 updates, learning rate 0.001"
    ) in said
    assert not (folder / "voita").exists()
    start("glue/run_voita", *words)
    methods = [load_record(folder / "records" / part / "results.json").method for part in (".", "tuned")]
    assert methods == ["mine", "mine-tuned"]
