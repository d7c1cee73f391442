"""Where a model's files are: in a folder here, or on the hub under a name such as `organisation/model`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

# what from_pretrained knows of the hub, too
_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
# what a model is made from; its tokenizer comes by itself, cards and other programs' weights are not needed
_FILES = (
    "config.json",
    "generation_config.json",
    "checksums.json",
    "pruned_module.json",
    "model*.safetensors",
    "*.index.json",
)


class Source(NamedTuple):
    """Where a model is read from.

    Attributes:
        folder: on this machine.
        whole: all its files are there; else those that a model is made from.
    """

    folder: Path
    whole: bool


def find_folder(
    name: str | os.PathLike | Source, options: dict[str, Any], more: Sequence[str] = ()
) -> Source:
    """Find the folder of a model: `name` itself where it is one, else what the hub (or its cache here) has
    under this name.

    What was found before is given back as it is.

    Args:
        options: for `from_pretrained`; those that are about finding files are taken out: `revision`, `token`,
            `cache_dir`, `local_files_only`, `force_download` as there, and `subfolder`.
        more: other files that are wanted than those of the model.

    Raises:
        FileNotFoundError: there is neither a folder nor a model of the hub of this name, or the hub cannot be
            reached.
    """
    if isinstance(name, Source):
        return name
    found = {key: options.pop(key) for key in _OPTIONS if key in options}
    inside = options.pop("subfolder", "") or ""
    if os.path.lexists(name) or not _is_name(name):
        return Source(Path(name, inside), True)
    from huggingface_hub import snapshot_download

    wanted = [f"{inside}/{pattern}" if inside else pattern for pattern in (*_FILES, *more)]
    try:
        folder = snapshot_download(os.fspath(name), allow_patterns=wanted, **found)
    except Exception as error:  # what the hub, the network or the cache answer is of many classes
        reason = str(error).strip().splitlines()
        raise FileNotFoundError(
            f"{name} is neither a folder ({Path(name).absolute()}) nor, as far as can be seen from here, a "
            f"model of the hub ({type(error).__name__}: {reason[0] if reason else 'no reason given'})"
        ) from error
    return Source(Path(folder, inside), False)


def _is_name(name: str | os.PathLike) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(os.fspath(name))
    except HFValidationError:
        return False
    return True
