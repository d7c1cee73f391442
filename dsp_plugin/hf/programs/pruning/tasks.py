"""The task of a folder's model, and its data: what scores are worked out on, what is scored."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedModel

from ....choosing.wish import Wish
from ....options.errors import OptionError
from ....options.faults import one_line
from ...data.glue_tasks import find_task
from ...data.input_limits import check_inputs, longest_input
from ...folders.hub_folders import find_folder
from ...folders.model_folder import read_config
from ...heads.units import head_map_of
from ..chassis.arguments import ClmArguments, GlueArguments, ModelArguments, SquadArguments
from ..chassis.data_task import DataTask
from ..chassis.models import load, say_open_heads
from ..chassis.origin import check_lengths
from ..chassis.system import TASKS

# what the name of a model's class ends with -> the kind of its data
_ENDINGS = (
    ("ForSequenceClassification", GlueArguments),
    ("ForQuestionAnswering", SquadArguments),
    ("ForCausalLM", ClmArguments),
    ("LMHeadModel", ClmArguments),
)
_LENGTHS = {GlueArguments: 128, SquadArguments: 384, ClmArguments: 512}


@dataclass
class Opened:
    """A trained model with its data.

    Attributes:
        folder: that it was loaded from.
        calibration: the task with its training set read; None where no data was named.
        scored: the task with its development sets read; None where no data was named.
    """

    model: PreTrainedModel
    tokenizer: Any
    folder: str
    calibration: DataTask | None
    scored: DataTask | None


def open_model(
    folder: str, wish: Wish, calibration: str, score: str | None = None, task: str | None = None
) -> Opened:
    """Load a trained model, and read the data of its task.

    Args:
        wish: which units may go.
        folder: a Transformers folder; its class says what kind of task it does: classifiers are GLUE's,
            question answering is SQuAD's, causal language models continue text.
        calibration: where the training set is: a folder of GLUE's official files, a folder of SQuAD's or a
            file, a folder of text or a file. score: where the development sets are, likewise.
        task: name of the GLUE task; None: as the folder of the data is called.

    Raises:
        OptionError: of `calibration` or `score`: it is not there, or is of another task than the model;
            of `task`. ValueError: the folder is none of a trained model of such a task, or its units are not
            known.
    """
    found = find_folder(folder, {})
    name = (read_config(*found).architectures or [""])[0]
    kind = next((data for ending, data in _ENDINGS if name.endswith(ending)), None)
    if kind is None:
        known = "models for sequence classification, question answering, or causal language modelling"
        raise ValueError(f"{folder} holds a {name or 'model of no class'}; data is known for {known}")
    if task is not None and kind is not GlueArguments:
        raise OptionError("task", f"{task}: names tasks of classifiers, and {folder} holds a {name}")
    for option, path in (("calibration", calibration), ("score", score)):
        if path is not None and not os.path.exists(path):
            raise OptionError(option, f"{path}: there is no such folder or file")
    options = ModelArguments(model_name_or_path=folder)
    model = tokenizer = None
    tasks: dict[str, DataTask | None] = {"calibration": None, "score": None}
    for option, path in (("calibration", calibration), ("score", score)):
        if path is None:
            continue
        with _naming(option, path):
            one = _task(kind, option, path, task)
        if model is None:
            try:
                model, tokenizer, new = load(options, one)
            except OptionError as error:
                raise OptionError(option, f"{path} does not fit {folder}: {error.reason}") from error
            if new:
                reason = f"is no trained model of {one.name} ({', '.join(new[:3])} are not in it)"
                raise OptionError(option, f"{path}: {folder} {reason}")
            say_open_heads(folder)
            head_map_of(model, wish.neurons, wish.heads)  # before data are read
        elif one.name != tasks["calibration"].name:
            reason = f"{path} is of {one.name}, and what {{}} names of {tasks['calibration'].name}"
            raise OptionError(option, reason, "calibration")
        else:
            one.adopt(model.config)
        with _naming(option, path):
            _read(one, option, model, tokenizer, folder)
        tasks[option] = one
    return Opened(model.eval(), tokenizer, folder, tasks["calibration"], tasks["score"])


def _task(kind: type, option: str, path: str, name: str | None) -> DataTask:
    """Make the task of data at a path."""
    data: dict[str, Any] = {"data_dir": path} if os.path.isdir(path) else {}
    if kind is GlueArguments:
        if not data:
            raise ValueError("a folder of the task's official TSV files belongs there")
        data["task_name"] = name or os.path.basename(os.path.abspath(path))
        try:
            find_task(data["task_name"])
        except ValueError as error:
            reason = f"{path}: which task it is of is not known: name its folder so, or give {{}}"
            raise OptionError(option, reason, "task") from error
    elif not data:
        names = {SquadArguments: ("train_file", "predict_file")}
        train, scored = names.get(kind, ("train_file", "validation_file"))
        data[train if option == "calibration" else scored] = path
    return TASKS[kind](kind(max_seq_length=_LENGTHS[kind], **data))


@contextlib.contextmanager
def _naming(option: str, path: str) -> Iterator[None]:
    """Turn whatever is wrong with data into an error of the option that named them."""
    try:
        yield
    except OptionError as error:
        if error.name in (option, "task"):
            raise
        raise OptionError(option, f"{path}: {error.name} {error.reason}", *error.others) from error
    except Exception as error:
        raise OptionError(option, f"{path}: {one_line(error)}") from error


def _read(task: DataTask, option: str, model: PreTrainedModel, tokenizer: Any, folder: str) -> None:
    longest = longest_input(model) or tokenizer.model_max_length
    longest = min(task.options.max_seq_length, longest, tokenizer.model_max_length)
    task.options = replace(task.options, max_seq_length=longest)
    check_lengths(model, tokenizer, task)
    task.check_model(model, tokenizer)
    task.read(option == "calibration", option == "score", False)
    task.tokenise(tokenizer)
    for data in filter(None, [task.train, *task.dev.values()]):
        check_inputs(data, model, folder)
