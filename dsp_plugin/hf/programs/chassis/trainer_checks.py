"""What the Trainer would find out about its options in the middle of a run, or never, is said beforehand.

Single numbers are `option_checks`'s affair; here are options that a package, a machine, another option or a
task speaks against.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import torch
from accelerate.utils import DynamoBackend
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import integration_utils
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.utils import is_liger_kernel_available

from ....options.errors import OptionError
from ....options.faults import one_line

_UPDATES = 1000  # of a schedule that is made to see whether it can be
_COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def check_trainer(args: TrainingArguments, task: Any) -> None:
    """Raise a ValueError naming an option of the Trainer that cannot be or would do nothing, and what can.

    Args:
        task: a `DataTask`.
    """
    task.check(args)
    _check_reports(args)
    _check_optimizer(args)
    _check_schedule(args)
    _check_machinery(args)
    _check_workers(args)
    _check_task(args, task)
    _check_best(args, task)


def check_metric(args: TrainingArguments, task: Any) -> None:
    """Raise an OptionError where the metric for the best model is none of the task's."""
    given = args.metric_for_best_model
    known = ("loss", *task.watched)
    if given is not None and given.removeprefix("eval_") not in known:
        raise OptionError("metric_for_best_model", f"{given}: {task.name} has {', '.join(known)}")


def _check_reports(args: TrainingArguments) -> None:
    given = args.report_to
    names: list[str] = [given] if isinstance(given, str) else list(given or [])
    for name in names:
        if name in ("none", "all"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            raise OptionError(
                "report_to", f"{name}: there are none, all, {', '.join(sorted(INTEGRATION_TO_CALLBACK))}"
            )
        without = "{} none does without"
        if not _is_here(name):
            raise OptionError("report_to", f"{name}: its package is not installed; {without}", "report_to")
        try:
            INTEGRATION_TO_CALLBACK[name]()  # looks for whatever else it needs
        except Exception as error:
            raise OptionError("report_to", f"{name}: {one_line(error)}; {without}", "report_to") from None


def _is_here(name: str) -> bool:
    """Ask for an integration's package as Transformers does, where it has a question of that name."""
    asked = (
        getattr(integration_utils, f"is_{word}_available", None)
        for word in (name, name.replace("_", ""), name.removesuffix("_ml"))
    )
    return all(available() for available in asked if available is not None)


def _check_optimizer(args: TrainingArguments) -> None:
    """Check that the package is here, and what `--optim_args` and `--optim_target_modules` say is taken."""
    optim = str(getattr(args.optim, "value", args.optim))
    given = args.optim_args
    pairs = [pair.partition("=") for pair in (given or "").replace(" ", "").split(",") if pair]
    whole = all(name and equals and value and "=" not in value for name, equals, value in pairs)
    if given and not (pairs and whole):
        raise OptionError("optim_args", f"{given}: name=value,name=value belongs there")
    if args.optim_target_modules is not None:
        if not any(word in optim for word in ("galore", "apollo")):
            raise OptionError(
                "optim_target_modules", f"does nothing under {{}} {optim}: leave it out", "optim"
            )
        with contextlib.suppress(AttributeError):  # further on they ask for the model
            _made_optimizer(args, optim)
        return
    made = _made_optimizer(args, optim)
    for name, _, value in pairs:
        rest = ",".join(f"{other}={its}" for other, _, its in pairs if other != name)
        if _optimizer_options(args, rest or None) == made:
            raise OptionError(
                "optim_args", f"{name}={value} does nothing under {{}} {optim}: leave it out", "optim"
            )


def _made_optimizer(args: TrainingArguments, optim: str) -> Any:
    given = args.optim_args
    try:
        return _optimizer_options(args, given)
    except AttributeError:
        raise
    except Exception as error:  # of whatever package it is from
        more = [f"{optim} {{}} {given}", "optim_args"] if given else [optim]
        raise OptionError("optim", f"{more[0]}: {one_line(error)}", *more[1:]) from error


def _optimizer_options(args: TrainingArguments, optim_args: Any) -> Any:
    before, args.optim_args = args.optim_args, optim_args
    try:
        return Trainer.get_optimizer_cls_and_kwargs(args)
    finally:
        args.optim_args = before


def _check_schedule(args: TrainingArguments) -> None:
    kind = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    single = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate)
    given = ["--lr_scheduler_kwargs", str(args.lr_scheduler_kwargs)] if args.lr_scheduler_kwargs else []
    try:
        get_scheduler(kind, single, args.get_warmup_steps(_UPDATES), _UPDATES, args.lr_scheduler_kwargs)
    except (ValueError, TypeError) as error:
        raise OptionError(
            "lr_scheduler_type", f"{' '.join([kind, *given])}: {one_line(ValueError(str(error)))}"
        ) from error


def _check_machinery(args: TrainingArguments) -> None:
    if args.use_liger_kernel and not is_liger_kernel_available():
        raise OptionError(
            "use_liger_kernel", "needs a package that is not here: pip install liger-kernel, or leave it out"
        )
    given = args.gradient_checkpointing_kwargs
    taken = [*list(inspect.signature(torch.utils.checkpoint.checkpoint).parameters)[1:], "preserve_rng_state"]
    taken = sorted({name for name in taken if name not in ("args", "kwargs")})
    for name in given or {}:
        if name not in taken:
            raise OptionError("gradient_checkpointing_kwargs", f"{name}: there are {', '.join(taken)}")
    if args.torch_compile_backend and args.torch_compile_backend.upper() not in {
        backend.value for backend in DynamoBackend
    }:
        known = ", ".join(sorted(backend.value.lower() for backend in DynamoBackend if backend.value != "NO"))
        raise OptionError("torch_compile_backend", f"{args.torch_compile_backend}: there are {known}")
    if args.torch_compile_mode and args.torch_compile_mode not in _COMPILE_MODES:
        known = ", ".join(_COMPILE_MODES)
        raise OptionError("torch_compile_mode", f"{args.torch_compile_mode}: there are {known}")
    inner = getattr(args.accelerator_config, "gradient_accumulation_kwargs", None) or {}
    if "num_steps" in inner:
        raise OptionError(
            "accelerator_config",
            f"gradient_accumulation_kwargs num_steps: give {{}} {inner['num_steps']}, by which schedules "
            "are made, too",
            "gradient_accumulation_steps",
        )
    if args.fsdp and args.world_size == 1:
        raise OptionError(
            "fsdp", "spreads the model over several processes: start them with torchrun, or leave it out"
        )


def _check_workers(args: TrainingArguments) -> None:
    for name in (
        "dataloader_persistent_workers",
        "dataloader_multiprocessing_context",
        "dataloader_prefetch_factor",
    ):
        value = getattr(args, name)
        if value and not args.dataloader_num_workers:
            raise OptionError(
                name,
                f"{value} is about worker processes: give {{}} 1 or more with it",
                "dataloader_num_workers",
            )


def _check_task(args: TrainingArguments, task: Any) -> None:
    """Check what the task's scores are made of."""
    if not args.eval_do_concat_batches:
        raise OptionError(
            "eval_do_concat_batches", "False: scores are made of all batches in one, so leave it out"
        )
    if args.batch_eval_metrics:
        raise OptionError("batch_eval_metrics", ": scores are made of all batches in one, so leave it out")
    if args.prediction_loss_only and (args.do_eval or args.do_predict):
        raise OptionError(
            "prediction_loss_only",
            "leaves no predictions to score: leave it out, or {} and {}",
            "do_eval",
            "do_predict",
        )
    labels = list(task.label_columns)
    if args.label_names is not None and sorted(args.label_names) != sorted(labels):
        raise OptionError(
            "label_names",
            f"{' '.join(args.label_names)}: those of {task.name} are {' '.join(labels)}; leave it out",
        )
    if args.label_smoothing_factor and not task.smooths:
        why = "answers are numbers" if labels == ["labels"] else "answers are spans"
        raise OptionError(
            "label_smoothing_factor",
            f"{args.label_smoothing_factor}: {task.name}'s {why}, and there are no labels to smooth; leave "
            "it out",
        )


def _check_best(args: TrainingArguments, task: Any) -> None:
    check_metric(args, task)
    metric = args.metric_for_best_model
    strategy = str(getattr(args.save_strategy, "value", args.save_strategy))
    evaluates = str(getattr(args.eval_strategy, "value", args.eval_strategy)) != "no"
    if strategy == "best" and not (evaluates and metric is not None):
        known = ", ".join(["loss", *task.watched])
        raise OptionError(
            "save_strategy",
            f"best needs {{}} (one of {known}) and {{}} steps or epoch",
            "metric_for_best_model",
            "eval_strategy",
        )
    if args.prediction_loss_only and metric is not None and metric.removeprefix("eval_") != "loss":
        raise OptionError(
            "prediction_loss_only",
            f"leaves no {metric} for {{}}: take loss, or leave it out",
            "metric_for_best_model",
        )
