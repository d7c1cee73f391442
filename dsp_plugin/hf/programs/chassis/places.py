"""What a run reads and what it writes are different places, however they are named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from transformers import CONFIG_NAME, PreTrainedModel, TrainingArguments

from ....options.errors import OptionError
from ....records.files.whole import check_output


def check_model_folder(model: str, output_dir: str, trains: bool, writes: tuple[str, ...] = ()) -> None:
    """Check that a run neither writes over the model it starts from, nor removes it with its checkpoints.

    Args:
        model: folder or name on the hub; empty for a new one. output_dir: the run's.
        trains: whether a model is written there.
        writes: folders in `output_dir` that the run replaces.

    Raises:
        ValueError: the model is in a place that is written; links and other spellings of it are seen through.
    """
    source, out = Path(model), Path(output_dir)
    if not (model and source.is_dir()):
        return
    real, place = source.resolve(), out.resolve()
    written = [place / name for name in writes]
    if trains:
        shared = [path.name for path in source.iterdir() if _same(path, out / path.name) and _is_models(path)]
        if real == place or shared or _same(source, out):
            raise OptionError(
                "output_dir",
                f"{output_dir} is the folder of {{}} {model}, which would be written over: name another one",
                "model_name_or_path",
            )
        written.append(place)
    for folder in written:
        if folder == real or folder in real.parents:
            raise OptionError(
                "model_name_or_path",
                f"{model} lies in {{}} {output_dir}, whose checkpoints and models this run replaces: name "
                f"another {{}}, or copy the model",
                "output_dir",
                "output_dir",
            )


def check_written_file(option: str, path: str | os.PathLike, read: Mapping[str, str | None]) -> None:
    """Check that a file which a run writes is none of those that it reads.

    Args:
        option: names `path`. read: option -> file or folder that is read, None where it was not given.

    Raises:
        ValueError: the file is one of them, is a file of a model's folder, or cannot be written.
    """
    path = Path(path)
    check_output(option, path)
    for name, given in read.items():
        if not given:
            continue
        inside = Path(given).iterdir() if Path(given).is_dir() else [Path(given)]
        if any(_same(path, file) for file in inside):
            raise OptionError(option, f"{path} is what {{}} reads: name another one", name)


def check_space(folder: str, model: PreTrainedModel, args: TrainingArguments) -> None:
    """Check that a training's folder has room for the model and, where checkpoints are saved, for one.

    Raises:
        ValueError: it has not; says how much is free.
    """
    weights = sum(weight.nbytes for weight in model.parameters())
    trained = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    needed = weights
    if args.save_strategy != "no":
        needed += weights + (0 if args.save_only_model else 2 * trained)  # Adam's moments
    place = Path(folder).resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OptionError(
            "output_dir",
            f"{folder}: {free / 1e6:,.0f} MB are free there, and the model and a checkpoint need "
            f"{needed / 1e6:,.0f} MB",
        )


def _is_models(path: Path) -> bool:
    return path.name == CONFIG_NAME or path.suffix in (".safetensors", ".bin")


def _same(one: Path, other: Path) -> bool:
    """Whether both are there and are one file or folder, by whatever link."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
