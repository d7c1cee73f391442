"""Options of `--tune_epochs` that cannot be are refused before anything is read."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")
from hf_programs import start

from dsp_plugin.hf.programs.chassis.arguments import GlueArguments
from dsp_plugin.hf.programs.chassis.train import read_options
from dsp_plugin.hf.programs.chassis.tuning import TuningArguments, setup_of_tuning

GIVEN = ["--model_name_or_path", "nowhere", "--task_name", "CoLA", "--output_dir", "nowhere/out"]
DSP = ["glue/run_dsp", *GIVEN, "--num_of_heads", "3", "--do_train"]
GLUE = ["glue/run_glue", *GIVEN]


@pytest.mark.parametrize(
    "words, told",
    [
        ([*GLUE, "--do_train", "--tune_epochs", "0"], "--tune_epochs 0.0: a finite number above 0 belongs"),
        ([*DSP, "--tune_epochs=-1"], "--tune_epochs -1.0: a finite number above 0 belongs there"),
        (
            [*DSP, "--tune_learning_rate", "1e-4"],
            "--tune_learning_rate is the rate of --tune_epochs, which is missing",
        ),
        (
            [*DSP, "--tune-epochs", "1", "--no_pruned"],
            "--tune-epochs trains .*/pruned on: leave --no_pruned out",
        ),
        (
            [*GLUE, "--do_eval", "--tune_epochs", "1"],
            "--tune_epochs trains on what was trained: give --do_train",
        ),
        (
            [*GLUE, "--do_train", "--tune_epochs", "1", "--tune_learning_rate", "0"],
            "--tune_learning_rate 0.0: a finite number above 0 belongs there",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=told):
        start(*words)
    assert not any(tmp_path.iterdir())


def test_what_a_tuning_changes_of_the_options_and_what_it_takes_over(tmp_path):
    words = [*GIVEN, "--do_train", "--max_steps", "9", "--warmup_steps", "4", "--lr_scheduler_type", "cosine"]
    words += ["--weight_decay", "0.1", "--max_grad_norm", "0.5", "--per_device_train_batch_size", "3"]
    words += ["--resume_from_checkpoint", "somewhere", "--tokenizer_name", "other", "--seed", "5"]
    words += ["--tune_epochs", "2.5"]
    setup, (tuning,) = read_options("", GlueArguments, (TuningArguments,), words)
    after = setup_of_tuning(setup, tuning, "pruned")
    args = after.args
    assert (args.num_train_epochs, args.max_steps, args.learning_rate) == (2.5, -1, 5e-5)
    assert (args.lr_scheduler_type, args.get_warmup_steps(50)) == ("linear", 5)
    assert (args.weight_decay, args.max_grad_norm, args.train_batch_size, args.seed) == (0.1, 0.5, 3, 5)
    assert args.resume_from_checkpoint is after.model.tokenizer_name is None
    assert (after.model.model_name_or_path, args.output_dir) == ("nowhere/out/pruned", "nowhere/out/tuned")
    assert (setup.args.max_steps, setup.args.get_warmup_steps(50)) == (9, 4)
