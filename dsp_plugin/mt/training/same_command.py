"""Whether two command lines ask for the same training, by what their options mean and not their words.

`--lr 1e-3` is `--lr=0.001`; a file is what it holds, whether its path is absolute, starts in another folder,
or is another one.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
from typing import Any, Optional

from ...options.errors import dashed
from ...records.settings import in_both, other_settings
from .data_checks import data_fingerprint

# what may change between the start of a training and its resume
FREE = (
    "num_workers",
    "log_interval",
    "log_format",
    "no_progress_bar",
    "cpu",
    "save_interval_updates",
    "keep_interval_updates",
)
# where things are written to or, of what is read, its content is compared
_PLACES = (
    "save_dir",
    "user_dir",
    "mask_pack",
    "dsee_checkpoint",
    "delta",
    "log_file",
    "tensorboard_logdir",
    "plasma_path",
    "no_seed_provided",
)


def settings_of(parsed: argparse.Namespace) -> dict[str, Any]:
    """Return option -> value, as JSON has it, of all that a training's result depends on.

    Args:
        parsed: all of its options, those at their defaults, too.
    """
    from fairseq.dataclass.configs import DistributedTrainingConfig

    machine = {option.name for option in dataclasses.fields(DistributedTrainingConfig)}
    left_out = {*FREE, *_PLACES, *machine}
    found = {
        name: value
        for name, value in sorted(vars(parsed).items())
        if name not in left_out and not name.startswith("_")
    }
    found["data"] = data_fingerprint(parsed.data)
    if found.get("base_checkpoint"):
        found["base_checkpoint"] = file_hash(found["base_checkpoint"])
    return json.loads(json.dumps(found, default=str))


def difference(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Name what differs, of the options that both know: a newer fairseq or plugin has more of them."""
    return other_settings(there, here, in_both(there, here), dashed)


def file_hash(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def same_file(one: Optional[str], other: Optional[str]) -> bool:
    """Whether two paths, either from the working folder, lead to one place."""
    return one is not None and other is not None and os.path.realpath(one) == os.path.realpath(other)
