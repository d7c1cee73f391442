"""Location of a model's files: a folder here, or a name on the hub such as `organisation/model`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

# options of from_pretrained about the hub
_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
# the files a model is made from: no cards, no weights for other programs; a tokenizer is asked for by itself
_FILES = tuple(
    "config.json generation_config.json checksums.json pruned_module.json model*.safetensors "
    "*.index.json".split()
)


class Source(NamedTuple):
    """The folder a model is read from.

    Attributes:
        folder: its path on this machine.
        whole: it holds all files of the model; else only those that a model is made from.
    """

    folder: Path
    whole: bool


def find_folder(
    name: str | os.PathLike | Source, options: dict[str, Any], more: Sequence[str] = ()
) -> Source:
    """Find the folder of a model, or download the model of this name from the hub (or its cache here).

    Args:
        name: a folder or a name on the hub; a `Source` is returned as it is.
        options: options of `from_pretrained`; those about finding files are taken out: `revision`, `token`,
            `cache_dir`, `local_files_only`, `force_download`, and `subfolder`.
        more: names or patterns of further files to download.

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
    except Exception as error:  # the hub, the network and the cache fail in many classes
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
