"""The published BERT command lines are understood as they stand."""

from __future__ import annotations

import shlex

import pytest
from glue_command_lines import GlueArguments, group_of, understood

from dsp_plugin.hf.programs.heads.michel import MichelArguments

PUBLISHED = """
run_glue.py --model_name_or_path bert-base-uncased --task_name MNLI --do_train --do_eval \\
  --data_dir data/MNLI/ --max_seq_length 128 --per_device_train_batch_size 32 --learning_rate 2e-5 \\
  --num_train_epochs 3.0 --output_dir output/ --cache_dir cache/ --save_steps 10000
run_dsp.py --data_dir data/MNLI/ --model_name_or_path bert-base-uncased --task_name MNLI --do_train \\
  --do_eval --max_seq_length 128 --per_device_train_batch_size 32 --learning_rate 2e-5 \\
  --num_train_epochs 3.0 --output_dir dsp_output/ --cache_dir cache/ --save_steps 10000 \\
  --num_of_heads 12 --pruning_lr 0.5 --annealing --initial_temperature 1000 --final_temperature 1e-8 \\
  --cooldown_steps 25000 --joint_pruning
run_dsp.py --data_dir data/MNLI/ --model_name_or_path bert-base-uncased --task_name MNLI --do_train \\
  --do_eval --max_seq_length 128 --per_device_train_batch_size 32 --learning_rate 2e-5 \\
  --num_train_epochs 3.0 --output_dir dsp_output/ --cache_dir cache/ --save_steps 10000 \\
  --num_of_heads 12 --pruning_lr 0.5 --use_ste --joint_pruning
run_dsp.py --data_dir data/MNLI/ --model_name_or_path output/ --task_name MNLI --do_train --do_eval \\
  --max_seq_length 128 --per_device_train_batch_size 32 --learning_rate 2e-5 --num_train_epochs 1.0 \\
  --output_dir dsp_output/ --cache_dir cache/ --save_steps 10000 --num_of_heads 12 --pruning_lr 0.5 \\
  --annealing --initial_temperature 1000 --final_temperature 1e-8 --cooldown_steps 8333
run_voita.py --model_name_or_path bert-base-uncased --task_name MNLI --do_train --do_eval \\
  --data_dir data/MNLI/ --max_seq_length 128 --per_device_train_batch_size 32 --learning_rate 2e-5 \\
  --num_train_epochs 3.0 --output_dir voita_output/ --cache_dir cache/ --save_steps 10000 \\
  --l0_penalty 0.0015 --joint_pruning --pruning_lr 0.1
run_michel.py --data_dir data/MNLI/ --model_name_or_path output/ --task_name MNLI \\
  --output_dir michel_output/ --cache_dir cache/ --tokenizer_name bert-base-uncased --exact_pruning \\
  --num_of_heads 12
"""


LINES = PUBLISHED.replace("\\\n ", "").strip().splitlines()


@pytest.mark.parametrize("line", LINES)
def test_published_command_lines(line):
    words = shlex.split(line)
    found = understood(words)
    dashed = understood([word.replace("_", "-") if word.startswith("--") else word for word in words])
    for name, value in zip(words[1:], [*words[2:], "--"]):
        if name.startswith("--"):
            wanted = True if value.startswith("--") else value
            assert found[name[2:]] == (type(found[name[2:]])(wanted)), name
            assert dashed[name[2:]] == found[name[2:]]
    assert found["num_of_heads"] == 12 if "num_of_heads" in line else True


# of each published line with a schedule: what it says, and what stands for the rest, as ever
BY_HAND = {"pruning_warmup_updates": 0, "min_heads_per_block": 0, "heads_per_kind": None}
BY_HAND |= {"pruning_schedule": "by hand", "init_scores": "random"}
SUBSET = {"num_of_heads": 12, "pruning_lr": 0.5, "initial_temperature": 1000.0, "final_temperature": 1e-8}
SUBSET |= {"final_noise": 1.0, "mask_samples": 1}
RESOLVED = [
    {**SUBSET, "joint_pruning": True, "use_ste": False, "annealing": True, "cooldown_steps": 25000},
    {**SUBSET, "joint_pruning": True, "use_ste": True, "annealing": False, "cooldown_steps": 25000},
    {**SUBSET, "joint_pruning": False, "use_ste": False, "annealing": True, "cooldown_steps": 8333},
    {"num_of_heads": None, "joint_pruning": True, "pruning_lr": 0.1, "l0_penalty": 0.0015},
]


@pytest.mark.parametrize("line, options", list(zip(LINES[1:5], RESOLVED)), ids=str)
def test_a_published_command_line_means_what_it_meant(line, options):
    group = group_of(shlex.split(line))
    settings = group.settings()
    later = {name: settings.pop(name) for name in set(settings) - set(BY_HAND) - set(options)}
    assert settings == {**BY_HAND, **options}
    assert not any(later.values())  # options of later methods, which were not given
    assert {name: value for name, value in group.options.items() if name in options} == options


def test_defaults_of_michel_and_of_the_data_are_those_of_the_papers():
    michel = MichelArguments(output_dir="out")
    assert (michel.num_of_heads, michel.exact_pruning, michel.batch_size) == (12, False, 32)
    assert GlueArguments().max_seq_length == 128
