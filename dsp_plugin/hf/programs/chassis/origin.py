"""What a model brings along from its earlier task, and whether this task can take it over."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_NAME, AutoConfig, PreTrainedConfig, PreTrainedModel

from ....options.errors import OptionError
from ...data.glue import check_max_seq_length
from ...data.glue_tasks import TASKS, find_task
from ...data.input_limits import longest_input
from .arguments import ModelArguments
from .output_folder import settings_of
from .parsing import say

_NO_NAME = re.compile(r"label_?\d+|\d+")


def label_words(config: PreTrainedConfig) -> tuple[str, ...]:
    """Return a model's labels in the order of its outputs, in lower case, words joined by "_"."""
    names = getattr(config, "id2label", None) or {}
    return tuple(re.sub(r"[\s-]+", "_", str(names[number]).strip().lower()) for number in sorted(names))


def check_lengths(model: PreTrainedModel, tokenizer: Any, task: Any) -> None:
    """Raise a ValueError for a `--max_seq_length` that tokenizer or table of positions cannot take."""
    length = task.options.max_seq_length
    check_max_seq_length(length, tokenizer, task.pair)
    longest = longest_input(model)
    if longest is not None and length > longest:
        raise OptionError("max_seq_length", f"{length}: the model has positions for {longest} tokens at most")


def check_head(
    model: PreTrainedModel, config: PreTrainedConfig, options: ModelArguments, task: Any
) -> list[str]:
    """Check that a task head which the model brought along is this task's; with `--ignore_mismatched_sizes`
    it is begun anew where it is not.

    Args:
        config: the model's own, before the task's entries. task: a `GlueTask` or `SquadTask`.

    Returns:
        names of the weights that are new.

    Raises:
        ValueError: the head is of another task, by the settings of its training, by its config's
            `finetuning_task` or by the names of its labels.
    """
    reason = _other_task(config, options, task)
    if reason is None:
        return []
    name = options.model_name_or_path
    if not options.ignore_mismatched_sizes:
        raise OptionError(
            "model_name_or_path",
            f"{name}: its task head {reason}, and this task is {task.name}: {{}} begins with a new task head",
            "ignore_mismatched_sizes",
        )
    say(f"{name}: its task head {reason}; a new one is begun")
    return _begin_head(model)


def check_checkpoint(checkpoint: str, model: PreTrainedModel) -> None:
    """Raise a ValueError where a checkpoint's config.json is of another kind of model or other labels."""
    path = Path(checkpoint) / CONFIG_NAME
    if not path.is_file():
        return
    try:
        theirs = AutoConfig.from_pretrained(checkpoint)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    compared = [
        (", ".join(theirs.architectures or ()), type(model).__name__),
        (str(theirs.num_labels), str(model.config.num_labels)),
    ]
    compared.append((", ".join(label_words(theirs)), ", ".join(label_words(model.config))))
    for what, (there, here) in zip(("a", "number of labels:", "labels:"), compared):
        if there and there != here:
            raise OptionError(
                "resume_from_checkpoint",
                f"{checkpoint} is of another training: {what} {there} there, {here} here",
            )


def _other_task(config: PreTrainedConfig, options: ModelArguments, task: Any) -> str | None:
    noted = settings_of(options.model_name_or_path).get("task") or getattr(config, "finetuning_task", None)
    if isinstance(noted, str):
        named = _task_name(noted)
        if named is not None:
            return None if named == task.name else f"was trained on {named}"
    theirs = label_words(config)
    if not task.labels or all(map(_NO_NAME.fullmatch, theirs)) or sorted(theirs) == sorted(task.labels):
        return None
    # labels that are numbers in the task's files can have any names, but not those of another task
    others = (other.labels for other in TASKS.values())
    named = {tuple(sorted(labels)) for labels in others if not all(map(_NO_NAME.fullmatch, labels))}
    if all(map(_NO_NAME.fullmatch, task.labels)) and tuple(sorted(theirs)) not in named:
        return None
    return f"has the labels {', '.join(theirs)}"


def _task_name(noted: str) -> str | None:
    """Return a task's name as `task.name` has it; None for a task that is not ours."""
    if noted.lower().startswith("squad"):
        return "SQuAD"
    try:
        return find_task(noted).folder
    except ValueError:
        return None


def _begin_head(model: PreTrainedModel) -> list[str]:
    """Give new random weights to what is not the model's body; return their names."""
    body = model.base_model_prefix + "."
    head = [name for name, _ in model.named_parameters() if not name.startswith(body)]
    fresh = dict(type(model)(model.config).named_parameters())
    with torch.no_grad():
        for name in head:
            model.get_parameter(name).copy_(fresh[name])
    return head
