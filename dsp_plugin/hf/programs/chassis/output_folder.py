"""The output folder of a training: what is in it already, and whether the training goes on from there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ....options.errors import OptionError
from ....records.files.sealed import parse_json, read_bounded, read_json, write_json
from ....records.files.sealed_folder import LIST
from ....records.settings import in_both, other_settings, refusal
from ...trainer.sealed_checkpoints import NO_OPTIMIZER, check_checkpoint, has_optimizer
from .parsing import say

SETTINGS = "settings.json"
STATE = "trainer_state.json"
_OF_TRAINING = (
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "optim",
    "optim_args",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "label_smoothing_factor",
    "max_steps",
    "train_sampling_strategy",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
)
_BY_CONTENT = ("model_files", "config_files", "tokenizer_files", "train_data")  # see `identity`
# What settings.json did not say in earlier versions: only where it does, it is compared.
_SAID_LATER = {*_OF_TRAINING, *_BY_CONTENT, "num_train_epochs", "examples_per_update", "mask"}
# What earlier versions, which did not say it, did.
_DONE_BEFORE = {
    "pruning_schedule": "by hand",
    "init_scores": "random",
    "final_noise": 1.0,
    "mask_samples": 1,
    "concentrate": False,
}
# What follows from the other settings and is noted only to be the same when a training goes on.
WORKED_OUT = "worked_out"


def starting_point(args: TrainingArguments, settings: dict[str, Any], overwrite: bool) -> str | None:
    """Find the checkpoint that training goes on from; None to begin. Changes nothing: see `begin`.

    The same command, started again, goes on from the last whole checkpoint in `--output_dir`.
    `--resume_from_checkpoint` may name another one.

    Args:
        settings: what must be the same to go on; JSON.

    Raises:
        ValueError: the folder, or the one of the named checkpoint, holds a training with other settings, a
            finished model without checkpoints, or files of other programs; a checkpoint to resume from that
            is none, or damaged, or in the middle of its training and without its optimizer.
    """
    folder = Path(args.output_dir)
    if folder.exists() and not folder.is_dir():
        raise OptionError("output_dir", f"{folder} is a file: name a folder")
    named = args.resume_from_checkpoint
    named = named if named and named.lower() not in ("auto", "true", "false") else None
    if overwrite:
        if named:
            raise OptionError(
                "overwrite_output_dir",
                "trains anew and {} goes on: give one of them",
                "resume_from_checkpoint",
            )
        return None
    checkpoints = _checkpoints(folder)
    ours = json.loads(json.dumps(settings))
    if named:
        if not _is_whole(Path(named)):
            raise OptionError(
                "resume_from_checkpoint", f"{named}: no checkpoint of a Trainer (no {STATE} that is whole)"
            )
        checkpoint: str | None = named
        path = _settings_file(named)
        if path is None:
            say(
                f"{named} does not say of which task and options it is: that it is of this command's is not "
                "checked"
            )
        elif path.parent.resolve() != folder.resolve():
            _check_same(
                path,
                ours,
                "resume_from_checkpoint",
                f"{named} is of",
                "name a checkpoint of this command's training",
            )
    else:
        whole = [path for path in checkpoints if _is_whole(path)]
        checkpoint = str(whole[-1]) if whole else None
        if checkpoints and checkpoints[-1] not in whole:
            say(f"{checkpoints[-1]} is not whole: its training was stopped while it was saved")
        if checkpoint is None:
            _check_nothing_else(folder, checkpoints)
    if checkpoint is not None:
        check_checkpoint(checkpoint)
        if (folder / SETTINGS).is_file():  # the stock Trainer's checkpoints have none
            _check_same(
                folder / SETTINGS,
                ours,
                "output_dir",
                f"{folder} holds",
                "choose another folder, or {}",
                "overwrite_output_dir",
            )
        if not has_optimizer(checkpoint) and _is_unfinished(checkpoint):
            reason = f"{checkpoint}: {NO_OPTIMIZER}{'' if named else '; {} trains anew'}"
            raise OptionError("resume_from_checkpoint", reason, "save_only_model", "overwrite_output_dir")
    return checkpoint


def training_settings(args: TrainingArguments) -> dict[str, Any]:
    """Return the Trainer's options that must be the same to go on: checkpoints keep rates and schedule.

    Of the batch it is the number of examples an update, however they are spread over processes and
    micro-batches; of the length `max_steps` where it is given, else `num_train_epochs`.
    """
    found = {name: getattr(args, name) for name in _OF_TRAINING}
    found["num_train_epochs"] = None if args.max_steps > 0 else args.num_train_epochs
    found["examples_per_update"] = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return found


def check_training(args: TrainingArguments, overwrite: bool) -> None:
    """Check what is known of a later part of a command before its turn: the part can begin in its folder.

    Raises:
        ValueError: the folder holds a training of other rates or lengths, or files of other programs.
    """
    folder, path = Path(args.output_dir), Path(args.output_dir) / SETTINGS
    if overwrite:
        return
    if args.do_train and not any(map(_is_whole, checkpoints := _checkpoints(folder))):
        _check_nothing_else(folder, checkpoints)
    if not path.is_file():
        return
    noted, ours = settings_of(str(folder)), json.loads(json.dumps(training_settings(args)))
    if differing := other_settings(noted, ours, in_both(ours, noted)):
        work, remedy = f"{folder} holds a training", "choose another folder, or {}"
        raise refusal(work, differing, remedy, "output_dir", ["overwrite_output_dir"])


def begin(
    args: TrainingArguments,
    settings: dict[str, Any],
    checkpoint: str | None,
    overwrite: bool,
    parts: Sequence[str] = (),
) -> None:
    """Begin to write, in the first process, when nothing stands in the way of training any more.

    Notes the settings in the folder; removes the checkpoints that are to be overwritten, and the trainings
    in `parts`, folders within it, which went on from them.
    """
    folder = Path(args.output_dir)
    if overwrite:
        _remove_checkpoints(folder)
        for part in (folder / name for name in parts):
            if (part / SETTINGS).is_file():
                shutil.rmtree(part)
                say(f"--overwrite_output_dir: {part}, trained from an earlier model, removed")
    if checkpoint is not None:
        say(f"going on from {checkpoint}")
        if (folder / SETTINGS).is_file():  # what it does not say of its beginning, this command does not know
            return
    _write(folder, settings)


def updates_of(checkpoint: str) -> int:
    """Return how many updates the training had made when this whole checkpoint was written."""
    return int(parse_json(read_bounded(Path(checkpoint) / STATE))["global_step"])


def _is_unfinished(checkpoint: str) -> bool:
    state = parse_json(read_bounded(Path(checkpoint) / STATE))
    return int(state["global_step"]) < int(state.get("max_steps") or 0)


def settings_of(model: str) -> dict[str, Any]:
    """Read the settings that these programs trained a model with; of a checkpoint's folder, its training's.

    Empty where the folder does not say: of other programs, on the hub.

    Raises:
        ValueError: they are damaged.
    """
    try:
        found = read_json(_settings_file(model) or Path(model) / SETTINGS)
    except OSError:
        return {}
    return found if isinstance(found, dict) else {}


class NotedSettings(TrainerCallback):
    """Puts the settings into every checkpoint as well, which says of what it is in another place, too."""

    def __init__(self, settings: dict[str, Any]):
        self.settings = settings

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            _write(folder, self.settings)


def _write(folder: Path, settings: dict[str, Any]) -> None:
    write_json(folder / SETTINGS, json.dumps(settings, indent=1) + "\n")


def _settings_file(model: str) -> Path | None:
    """Find settings.json in the folder, or in that of the training whose checkpoint or pruned model it is."""
    folder = Path(model).resolve()
    inside = folder.name.startswith("checkpoint-") or folder.name == "pruned"
    places = [folder, folder.parent] if inside else [folder]
    return next((place / SETTINGS for place in places if (place / SETTINGS).is_file()), None)


def _check_same(
    path: Path, settings: dict[str, Any], option: str, whose: str, remedy: str, *others: str
) -> None:
    """Check that the settings in a file are the same ones.

    Raises:
        ValueError: they are others (an OptionError of `option`), or the file is damaged.
    """
    try:
        earlier = {name: value for name, value in _DONE_BEFORE.items() if name in settings}
        noted = {**earlier, **read_json(path)}
        names = [name for name in {**settings, **noted} if name in noted or name not in _SAID_LATER]
        names = [name for name in names if name != WORKED_OUT]
        by_content = "model_files" in noted and "model_files" in settings
        if by_content or _is_same_name(noted.get("model"), settings.get("model")):
            names = [name for name in names if name != "model"]
        differing = other_settings(noted, settings, names)
    except (ValueError, TypeError, AttributeError) as error:
        reason = error if isinstance(error, ValueError) else f"{path} is damaged"
        raise ValueError(f"{reason}; delete it to go on with the settings of this command") from error
    if differing:
        raise refusal(f"{whose} a training", differing, remedy, option, others)
    if not by_content and "model_files" in settings:
        say(f"{path} is of an earlier version: that the model is the same one is checked by its name only")


def _is_same_name(one: Any, other: Any) -> bool:
    """Whether two paths name one model, from this folder or from another one; its contents say more."""
    return Path(str(one)).name == Path(str(other)).name


def _check_nothing_else(folder: Path, checkpoints: Sequence[Path]) -> None:
    """Raise an OptionError where more than the beginning of a training is in a folder."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    known = {SETTINGS, "heads.jsonl", "runs", *(path.name for path in checkpoints)}
    if any(not name.startswith(".") for name in there - known):
        raise OptionError(
            "output_dir",
            f"{folder} is not empty and has no checkpoint to go on from: give {{}} to train anew in it, "
            "or another folder",
            "overwrite_output_dir",
        )


def _remove_checkpoints(folder: Path) -> None:
    old = _checkpoints(folder)
    for path in old:
        shutil.rmtree(path)
    # not another training's
    scores = [path for path in folder.glob("*/results.json") if not (path.parent / SETTINGS).exists()]
    for path in [folder / "results.json", folder / "mask.json", *scores]:
        # else a kill would leave the earlier records beside the weights of this training
        path.unlink(missing_ok=True)
    if old:
        say(
            f"--overwrite_output_dir: {len(old)} checkpoint{'s' if len(old) > 1 else ''} of an earlier "
            "training removed"
        )


def _checkpoints(folder: Path) -> list[Path]:
    """List the folders of the Trainer's checkpoints, oldest first, whole or not."""
    folders = (path for path in folder.glob("checkpoint-*") if path.is_dir())
    found = [path for path in folders if path.name.split("-", 1)[1].isdigit()]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def _is_whole(checkpoint: Path) -> bool:
    """Return whether the last file is there, ours or one of before; the Trainer writes its own earlier."""
    if (checkpoint / LIST).is_file():
        return True
    try:
        state = parse_json(read_bounded(checkpoint / STATE))
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and "global_step" in state
