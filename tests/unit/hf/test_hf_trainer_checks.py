"""Options of the Trainer that a package, another option or a task speaks against: refused by name before
anything is loaded.
"""

from __future__ import annotations

import dataclasses
import shlex

import hf_programs  # noqa: F401  (first: see there)  isort: skip
import pytest
import torch
from transformers import Trainer, TrainingArguments

from dsp_plugin.hf.heads.training import training_steps
from dsp_plugin.hf.programs.chassis.arguments import GlueArguments, ModelArguments, SquadArguments
from dsp_plugin.hf.programs.chassis.glue_task import GlueTask
from dsp_plugin.hf.programs.chassis.parsing import _is_users, parse
from dsp_plugin.hf.programs.chassis.squad_task import SquadTask
from dsp_plugin.hf.programs.chassis.trainer_checks import check_trainer
from dsp_plugin.options.errors import OptionError, underscored
from dsp_plugin.options.faults import one_line

GIVEN = "--model_name_or_path m --output_dir out --use_cpu --do_train --do_eval "


def checked(words, task="MRPC"):
    data = SquadArguments if task == "SQuAD" else GlueArguments
    *_, options, args = parse("", [ModelArguments, data, TrainingArguments], shlex.split(GIVEN + words))
    task = SquadTask(options) if task == "SQuAD" else GlueTask(dataclasses.replace(options, task_name=task))
    try:
        check_trainer(args, task)
    except OptionError as error:
        raise ValueError(one_line(error, underscored)) from None  # as the programs say it
    return args


REFUSED = [
    ("--report_to odd", "--report_to odd: there are none, all, azure_ml"),
    ("--eval_do_concat_batches False", "--eval_do_concat_batches False: scores"),
    ("--batch_eval_metrics", "--batch_eval_metrics: scores"),
    ("--prediction_loss_only", "--prediction_loss_only leaves no predictions"),
    (
        "--prediction_loss_only --do_eval False --metric_for_best_model f1",
        "--prediction_loss_only leaves no f1",
    ),
    ("--metric_for_best_model accurcy", "--metric_for_best_model accurcy: MRPC has loss, accuracy, f1"),
    ("--metric_for_best_model F1", "--metric_for_best_model F1: MRPC has loss"),
    ("--metric_for_best_model ''", "--metric_for_best_model: MRPC has loss"),
    ("--metric_for_best_model eval_eval_f1", "--metric_for_best_model eval_eval_f1: MRPC has loss"),
    (
        "--save_strategy best",
        "--save_strategy best needs --metric_for_best_model (one of loss, accuracy, f1) and --eval_strategy",
    ),
    ("--save_strategy best --metric_for_best_model f1", "--save_strategy best needs"),
    ("--label_names odd", "--label_names odd: those of MRPC are labels"),
    ("--label_names labels odd", "--label_names labels odd: those"),
    ("--optim_args a", "--optim_args a: name=value,name=value belongs there"),
    ("--optim_args a=", "--optim_args a=: name=value"),
    ("--optim_args a=b=c", "--optim_args a=b=c: name=value"),
    ("--optim_args a=b", "--optim_args a=b does nothing under --optim adamw_torch"),
    ("--optim sgd --optim_args momentum=0.9,odd=1", "--optim_args odd=1 does nothing under --optim sgd"),
    ("--optim sgd --optim_args momentum=x", "--optim sgd --optim_args momentum=x: could not convert"),
    ("--optim_target_modules all-linear", "--optim_target_modules does nothing under --optim adamw_torch"),
    (
        "--lr_scheduler_type warmup_stable_decay",
        "--lr_scheduler_type warmup_stable_decay: get_wsd_schedule() missing",
    ),
    ("--lr_scheduler_type cosine_with_min_lr", "--lr_scheduler_type cosine_with_min_lr: One of"),
    ("--lr_scheduler_type polynomial --learning_rate 1e-8", "--lr_scheduler_type polynomial: lr_end"),
    ("--lr_scheduler_kwargs '{\"a\": 1}'", "--lr_scheduler_type linear --lr_scheduler_kwargs {'a': 1}: "),
    (
        "--gradient_checkpointing_kwargs '{\"a\": 1}'",
        "--gradient_checkpointing_kwargs a: there are context_fn",
    ),
    ("--torch_compile_backend odd", "--torch_compile_backend odd: there are"),
    ("--torch_compile_mode odd", "--torch_compile_mode odd: there are default"),
    ("--dataloader_persistent_workers", "--dataloader_persistent_workers True is about worker processes"),
    (
        "--dataloader_multiprocessing_context spawn",
        "--dataloader_multiprocessing_context spawn is about worker",
    ),
    ("--dataloader_prefetch_factor 2", "--dataloader_prefetch_factor"),
    (
        '--accelerator_config \'{"gradient_accumulation_kwargs": {"num_steps": 4}}\'',
        "give --gradient_accumulation_steps 4",
    ),
    ("--fsdp full_shard", "--fsdp"),
]


@pytest.mark.parametrize("words, said", REFUSED, ids=[words for words, _ in REFUSED])
def test_what_cannot_be_is_refused_by_name(words, said):
    with pytest.raises(ValueError) as refusal:
        checked(words)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "name", ["wandb", "mlflow", "comet_ml", "clearml", "swanlab", "trackio", "codecarbon", "tensorboard"]
)
def test_a_report_to_a_package_that_is_not_here(name, monkeypatch):
    import transformers.integrations.integration_utils as integrations

    for word in (name, name.removesuffix("_ml")):
        if hasattr(integrations, f"is_{word}_available"):
            monkeypatch.setattr(integrations, f"is_{word}_available", lambda: False)
    with pytest.raises(ValueError, match=f"--report_to {name}: .*; --report_to none does without"):
        checked(f"--report_to {name}")


@pytest.mark.parametrize(
    "task, refused",
    [("STS-B", "STS-B's answers are numbers"), ("SQuAD", "SQuAD's answers are spans"), ("MNLI", None)],
)
def test_labels_that_are_none_are_not_smoothed(task, refused):
    if refused is None:
        assert checked("--label_smoothing_factor 0.1", task).label_smoothing_factor == 0.1
        return
    with pytest.raises(ValueError, match=f"--label_smoothing_factor 0.1: {refused}"):
        checked("--label_smoothing_factor 0.1", task)


TAKEN = [
    "",
    "--report_to none",
    "--report_to all",
    "--metric_for_best_model eval_f1",
    "--metric_for_best_model loss",
    "--save_strategy best --metric_for_best_model f1 --eval_strategy epoch",
    "--prediction_loss_only --do_eval False",
    "--label_names labels",
    "--optim sgd --optim_args momentum=0.9",
    "--optim adafactor",
    "--optim adagrad --optim_args lr_decay=0.1",
    "--lr_scheduler_type warmup_stable_decay --lr_scheduler_kwargs '{\"num_decay_steps\": 10}'",
    "--warmup_steps 0.1",
    "--lr_scheduler_type constant_with_warmup --warmup_steps 10",
    "--eval_strategy epoch --lr_scheduler_type reduce_lr_on_plateau",
    "--gradient_checkpointing True --gradient_checkpointing_kwargs '{\"use_reentrant\": false}'",
    "--torch_compile_backend inductor",
    "--torch_compile_mode reduce-overhead",
    "--dataloader_num_workers 1 --dataloader_persistent_workers --dataloader_prefetch_factor 2",
    "--train_sampling_strategy group_by_length",
    "--bf16",
    "--full_determinism",
]


@pytest.mark.parametrize("words", TAKEN)
def test_what_can_be_is_taken(words):
    checked(words)


def test_no_batch_is_no_training(tmp_path):
    args = TrainingArguments(
        str(tmp_path), use_cpu=True, dataloader_drop_last=True, per_device_train_batch_size=8
    )
    for steps in (-1, 4):
        args.max_steps = steps
        leaves = "^dataloader_drop_last leaves no batch: 7 examples are less than 8"
        with pytest.raises(OptionError, match=leaves) as raised:
            training_steps(args, 7)
        assert raised.value.others == ("per_device_train_batch_size",)
        assert training_steps(args, 8) == (3 if steps < 0 else 4)
    assert training_steps(args, 0) == 4  # a stream says nothing of its length


@pytest.mark.parametrize("fails_at, users", [(1, True), (2, False)])
def test_what_the_first_step_cannot_use_is_told_in_one_line(tmp_path, fails_at, users):
    from hf_data import arguments, sentences, trainer
    from hf_models import tiny_model

    run = trainer(tiny_model("bert"), arguments(tmp_path, max_steps=3), sentences(8))
    calls = []

    def step(*args, **kwargs):
        calls.append(None)
        if len(calls) == fails_at:
            raise RuntimeError("'abs' not implemented for 'Bool'")
        return Trainer.training_step(run, *args, **kwargs)

    run.training_step = step
    with pytest.raises(RuntimeError) as failure:
        run.train()
    assert _is_users(failure.value) is users and isinstance(run.model.classifier, torch.nn.Linear)


@pytest.mark.parametrize(
    "options, name, said",
    [
        (dict(auto_find_batch_size=True), "auto_find_batch_size", "changes the number of updates"),
        (
            dict(activation_checkpointing=True, activation_checkpointing_kwargs={"use_reentrant": True}),
            "gradient_checkpointing_kwargs",
            "use_reentrant true goes back",
        ),
    ],
)
def test_what_gates_cannot_be_trained_under(tmp_path, options, name, said):
    from hf_training import gated, prepared

    with pytest.raises(OptionError, match=f"^{name} {said}"):
        prepared(gated("relaxed"), tmp_path, max_steps=2, **options)
