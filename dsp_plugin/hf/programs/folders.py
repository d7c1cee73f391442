"""The output folder of a training: what is in it already, and whether the training goes on from there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Dict, List, Optional

from transformers import TrainingArguments

from ...reports.sealed import parse_json, read_bounded, read_json, write_json
from ...reports.sealed_folder import LIST
from ..sealed_checkpoints import check_checkpoint
from .parsing import say

SETTINGS = "settings.json"
STATE = "trainer_state.json"
_OF_TRAINING = (
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "weight_decay",
    "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "label_smoothing_factor", "max_steps",
    "train_sampling_strategy",
)  # fmt: skip
# What settings.json did not say in earlier versions: only where it does, it is compared.
_SAID_LATER = {*_OF_TRAINING, "num_train_epochs", "examples_per_update", "mask"}


def starting_point(args: TrainingArguments, settings: Dict[str, Any], overwrite: bool) -> Optional[str]:
    """The checkpoint that training goes on from; None to begin. Changes nothing: see `begin`.

    The same command, started again, goes on from the last whole checkpoint in `--output_dir`.
    `--resume_from_checkpoint` may name another one.

    Args:
        settings: what must be the same to go on; JSON.

    Raises:
        ValueError: the folder holds a training with other settings, a finished model without checkpoints, or files of
            other programs; a checkpoint to resume from that is none, or damaged.
    """
    folder = Path(args.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is a file: name a folder")
    if overwrite:
        return None
    there = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    checkpoints = _checkpoints(folder)
    named = args.resume_from_checkpoint
    if named and named.lower() not in ("auto", "true"):
        if not (Path(named) / STATE).is_file():
            raise ValueError(f"--resume_from_checkpoint {named}: no checkpoint of a Trainer (no {STATE})")
        checkpoint: Optional[str] = named
    else:
        whole = [path for path in checkpoints if _is_whole(path)]
        checkpoint = str(whole[-1]) if whole else None
        if checkpoints and checkpoints[-1] not in whole:
            say(f"{checkpoints[-1]} is not whole: its training was stopped while it was saved")
        if checkpoint is None and set(there) - {SETTINGS, "heads.jsonl", "runs", *(path.name for path in checkpoints)}:
            raise ValueError(
                f"--output_dir {folder} is not empty and has no checkpoint to go on from: give --overwrite_output_dir to "
                "train anew in it, or another folder"
            )
    if checkpoint is not None:
        check_checkpoint(checkpoint)
        _check_same(folder, json.loads(json.dumps(settings)))
    return checkpoint


def training_settings(args: TrainingArguments) -> Dict[str, Any]:
    """What of the Trainer's options must be the same to go on: its checkpoints keep rates and schedule of their own.

    Of the batch it is the number of examples an update, however they are spread over processes and micro-batches; of
    the length `max_steps` where it is given, else `num_train_epochs`.
    """
    found = {name: getattr(args, name) for name in _OF_TRAINING}
    found["num_train_epochs"] = None if args.max_steps > 0 else args.num_train_epochs
    found["examples_per_update"] = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return found


def begin(args: TrainingArguments, settings: Dict[str, Any], checkpoint: Optional[str], overwrite: bool) -> None:
    """Called by the first process when nothing stands in the way of training any more.

    Notes the settings in the folder; removes the checkpoints that are to be overwritten.
    """
    folder = Path(args.output_dir)
    if overwrite:
        _remove_checkpoints(folder)
    if checkpoint is not None:
        say(f"going on from {checkpoint}")
        if (folder / SETTINGS).is_file():  # what it does not say of its beginning, this command does not know
            return
    write_json(folder / SETTINGS, json.dumps(settings, indent=1) + "\n")


def updates_of(checkpoint: str) -> int:
    """How many updates the training had made when this whole checkpoint was written."""
    return int(json.loads((Path(checkpoint) / STATE).read_text("utf-8"))["global_step"])


def settings_of(model: str) -> Dict[str, Any]:
    """The settings that a model was trained with by one of these programs; of a checkpoint's folder, its training's.

    Empty where the folder does not say: of other programs, on the hub.

    Raises:
        ValueError: they are damaged.
    """
    folder = Path(model).resolve()
    if folder.name.startswith("checkpoint-") and not (folder / SETTINGS).exists():
        folder = folder.parent
    try:
        found = read_json(folder / SETTINGS)
    except OSError:
        return {}
    return found if isinstance(found, dict) else {}


def _check_same(folder: Path, settings: Dict[str, Any]) -> None:
    path = folder / SETTINGS
    if not path.is_file():  # a checkpoint of the stock Trainer
        return
    try:
        noted = read_json(path)
        names = [*settings, *(name for name in noted if name not in settings)]
        names = [name for name in names if name in noted or name not in _SAID_LATER]
        differing = [f"{n}: {noted.get(n)} there, {settings.get(n)} here" for n in names if noted.get(n) != settings.get(n)]
    except (ValueError, TypeError, AttributeError) as error:
        reason = error if isinstance(error, ValueError) else f"{path} is damaged"
        raise ValueError(f"{reason}; delete it to go on with the settings of this command") from error
    if differing:
        raise ValueError(
            f"--output_dir {folder} holds a training with other settings ({'; '.join(differing)}): "
            "choose another folder, or --overwrite_output_dir"
        )


def _remove_checkpoints(folder: Path) -> None:
    old = _checkpoints(folder)
    for path in old:
        shutil.rmtree(path)
    if old:
        say(f"--overwrite_output_dir: {len(old)} checkpoint{'s' if len(old) > 1 else ''} of an earlier training removed")


def _checkpoints(folder: Path) -> List[Path]:
    """Folders of the Trainer's checkpoints, oldest first, whole or not."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and path.name.split("-", 1)[1].isdigit()]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def _is_whole(checkpoint: Path) -> bool:
    """Whether the last file is there: ours, or of before the Trainer's own. It writes model and optimizer before, and none of
    them in one move."""
    if (checkpoint / LIST).is_file():
        return True
    try:
        state = parse_json(read_bounded(checkpoint / STATE))
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and "global_step" in state
