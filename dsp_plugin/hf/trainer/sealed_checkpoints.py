"""The Trainer's checkpoints with a list of files and checksums, compared before a training goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ...options.errors import OptionError
from ...records.files.sealed_folder import check_sealed, seal_folder
from ...records.files.torch_zip import check_torch_zip

NO_OPTIMIZER = (  # "{}" is for save_only_model
    "the checkpoint has no optimizer.pt: moments and learning rates would begin anew in the middle of the "
    "training; start it again from its beginning, without {} if it is to be resumed"
)


class SealedCheckpoints(TrainerCallback):
    """Writes the list as every checkpoint's last file, and compares it with what the Trainer takes.

    Raises, from the Trainer:
        ValueError: the checkpoint of `output_dir` that it went on from, or the best one that it ends with, is
            damaged; the checkpoint that it went on from has no optimizer.
    """

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        lr_scheduler: Any = None,
        **kwargs: Any,
    ) -> None:
        if state.global_step:
            check_sealed(_folder(args, state))
            inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
            check_optimizer_state(inner)
            if state.global_step < state.max_steps:
                _check_restored(inner, getattr(lr_scheduler, "scheduler", lr_scheduler))

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.world_size > 1 and torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()  # every process writes a file of its own into the checkpoint
        if args.should_save and _folder(args, state).is_dir():
            seal_folder(_folder(args, state))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            check_sealed(state.best_model_checkpoint)


def check_checkpoint(folder: str | os.PathLike) -> None:
    """Compare a whole checkpoint with its list; without one, warn and compare its torch files' checksums.

    Raises:
        ValueError: a file is damaged, or missing. OSError: it cannot be read.
    """
    if check_sealed(folder, warn=True):
        return
    for path in sorted([*Path(folder).glob("*.pt"), *Path(folder).glob("*.pth")]):
        check_torch_zip(path)


def has_optimizer(folder: str | os.PathLike) -> bool:
    """Return whether a checkpoint has optimizer and schedule, which the Trainer else begins anew silently."""
    names = {path.name for path in Path(folder).iterdir()}
    if "latest" in names:  # DeepSpeed's, with everything in its own folders
        return True
    return SCHEDULER_NAME in names and any(name.startswith("optimizer") for name in names)


def _check_restored(optimizer: torch.optim.Optimizer | None, scheduler: Any) -> None:
    """Check that a training that goes on does so with its optimizer and schedule.

    Only both together are a sign of new ones: SGD has no state, and a schedule may count something else than
    updates.

    Raises:
        OptionError: both are new.
    """
    if optimizer is not None and not optimizer.state and not getattr(scheduler, "last_epoch", 0):
        raise OptionError("resume_from_checkpoint", f"goes on, and {NO_OPTIMIZER}", "save_only_model")


def check_optimizer_state(optimizer: torch.optim.Optimizer | None) -> None:
    """Refuse a loaded Adam state that is not its parameters': fused kernels take its sizes on trust.

    Raises:
        ValueError: a moment has another shape than its parameter, or not as many values.
    """
    adam = isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW))
    for group in optimizer.param_groups if adam else ():
        for parameter in group["params"]:
            for name, value in optimizer.state.get(parameter, {}).items():
                if not isinstance(value, torch.Tensor) or (value.dim() == 0 and name == "step"):
                    continue
                if (
                    value.shape != parameter.shape
                    or value.untyped_storage().nbytes() < value.numel() * value.element_size()
                ):
                    raise ValueError(
                        f"the optimizer's state in the checkpoint has a {name!r} of shape "
                        f"{tuple(value.shape)} for a parameter "
                        f"of shape {tuple(parameter.shape)}: it is of another model, or made up"
                    )


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
