"""The output folder of a training: what is in it already, and whether the training goes on from there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Dict, Optional

from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ...reports.files import write_text
from .parsing import say

SETTINGS = "settings.json"


def starting_point(args: TrainingArguments, settings: Dict[str, Any], overwrite: bool) -> Optional[str]:
    """The checkpoint that training goes on from; None to begin. Changes nothing: see `begin`.

    The same command, started again, goes on from the last checkpoint in `--output_dir`. `--resume_from_checkpoint` may
    name another one.

    Args:
        settings: what must be the same to go on; JSON.

    Raises:
        ValueError: the folder holds a training with other settings, a finished model without checkpoints, or files of
            other programs; a checkpoint to resume from that is none.
    """
    folder = Path(args.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is a file: name a folder")
    if overwrite:
        return None
    there = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    named = args.resume_from_checkpoint
    if named and named.lower() not in ("auto", "true"):
        if not (Path(named) / "trainer_state.json").is_file():
            raise ValueError(f"--resume_from_checkpoint {named}: no checkpoint of a Trainer (no trainer_state.json)")
        checkpoint: Optional[str] = named
    else:
        checkpoint = get_last_checkpoint(str(folder)) if there else None
        if checkpoint is None and set(there) - {SETTINGS, "heads.jsonl", "runs"}:
            raise ValueError(
                f"--output_dir {folder} is not empty and has no checkpoint to go on from: give --overwrite_output_dir to "
                "train anew in it, or another folder"
            )
    if checkpoint is not None:
        _check_same(folder, json.loads(json.dumps(settings)))
    return checkpoint


def begin(args: TrainingArguments, settings: Dict[str, Any], checkpoint: Optional[str], overwrite: bool) -> None:
    """Called by the first process when nothing stands in the way of training any more.

    Notes the settings in the folder; removes the checkpoints that are to be overwritten.
    """
    folder = Path(args.output_dir)
    if checkpoint is not None:
        say(f"going on from {checkpoint}")
    if overwrite:
        _remove_checkpoints(folder)
    write_text(folder / SETTINGS, json.dumps(settings, indent=1) + "\n")


def _check_same(folder: Path, settings: Dict[str, Any]) -> None:
    path = folder / SETTINGS
    if not path.is_file():  # a checkpoint of the stock Trainer
        return
    try:
        noted = json.loads(path.read_text("utf-8"))
        names = [*settings, *(name for name in noted if name not in settings)]
        differing = [f"{n}: {noted.get(n)} there, {settings.get(n)} here" for n in names if noted.get(n) != settings.get(n)]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: delete it to go on with the settings of this command") from error
    if differing:
        raise ValueError(
            f"--output_dir {folder} holds a training with other settings ({'; '.join(differing)}): "
            "choose another folder, or --overwrite_output_dir"
        )


def _remove_checkpoints(folder: Path) -> None:
    old = sorted(path for path in folder.glob("checkpoint-*") if path.is_dir() and path.name.split("-")[-1].isdigit())
    for path in old:
        shutil.rmtree(path)
    if old:
        say(f"--overwrite_output_dir: {len(old)} checkpoint{'s' if len(old) > 1 else ''} of an earlier training removed")
