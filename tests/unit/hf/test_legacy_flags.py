"""Old flags in today's words."""

from __future__ import annotations

import pytest

from dsp_plugin.hf.programs.chassis.legacy_flags import EXPANDED, IGNORED, RENAMED, modern_arguments

KNOWN = {"output_dir", "eval_strategy", "per_device_train_batch_size", "use_cpu", "warmup_steps", "seed"}


def modern(text: str, known=KNOWN):
    return modern_arguments(text.split(), known)


@pytest.mark.parametrize(
    "old, new",
    [
        ("--per_gpu_train_batch_size 8", "--per_device_train_batch_size 8"),
        ("--per-gpu-eval-batch-size=16", "--per_device_eval_batch_size 16"),
        ("--evaluation_strategy steps", "--eval_strategy steps"),
        ("--no_cuda", "--use_cpu"),
        ("--no_cuda --seed 3", "--use_cpu --seed 3"),
        ("--no_cuda True --seed 3", "--use_cpu True --seed 3"),
        ("--evaluate_during_training", "--eval_strategy steps"),
        ("--evaluate_during_training False", ""),
        ("--group_by_length", "--train_sampling_strategy group_by_length"),
        ("--adafactor", "--optim adafactor"),
        ("--warmup_ratio 0.06", "--warmup_steps 0.06"),
        ("--warmup_ratio=0.06 --seed 1", "--warmup_steps 0.06 --seed 1"),
        ("--warmup_ratio 0", ""),
        ("--warmup_ratio 0.06 --warmup_steps 40", "--warmup_steps 40"),
        ("--warmup-steps=40 --warmup_ratio 0.06", "--warmup-steps=40"),
    ],
)
def test_what_has_a_successor_is_renamed(old, new):
    assert modern(old) == (new.split(), [])


def test_what_lost_its_meaning_is_left_out_and_named():
    words, notes = modern(
        "--model_type bert --overwrite_cache --output_dir out --fp16_opt_level O1 --save-safetensors"
    )
    assert words == ["--output_dir", "out"]
    assert [note.split()[0] for note in notes] == [
        "--model_type",
        "--overwrite_cache",
        "--fp16_opt_level",
        "--save-safetensors",
    ]
    assert all(" is ignored: " in note for note in notes)


def test_a_switch_that_is_off_needs_no_word():
    assert modern("--overwrite_cache false") == ([], [])


def test_flags_of_the_program_itself_are_not_touched():
    words = "--model_type bert --warmup_ratio 0.1 --per_gpu_train_batch_size 8"
    known = {"model_type", "warmup_ratio", "per_gpu_train_batch_size"}
    assert modern(words, known) == (words.split(), [])
    others = "--seed 1 --template a=--no_cuda=b -x --unknown --5"
    assert modern(others) == (others.split(), [])


@pytest.mark.parametrize(
    "words", ["--per_gpu_train_batch_size", "--model_type --seed 1", "--no_cuda --model_type"]
)
def test_an_old_flag_without_its_value_is_named(words):
    with pytest.raises(ValueError, match=r"--(per_gpu_train_batch_size|model_type) needs a value"):
        modern(words)


@pytest.mark.parametrize("value", ["1", "1.5", "-0.1", "many", "nan"])
def test_a_share_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match=f"--warmup_ratio {value}: a share"):
        modern(f"--warmup_ratio {value}")


def test_no_old_flag_is_one_that_the_trainer_still_takes():
    from dataclasses import fields

    from transformers import TrainingArguments

    today = {field.name for field in fields(TrainingArguments)}
    assert not today & ({*RENAMED, *IGNORED, *EXPANDED, "warmup_ratio"})
    assert set(RENAMED.values()) <= today
    assert {words[0][2:] for words in EXPANDED.values()} <= today
