"""The configuration of a model that is stored as what changes a base."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, PretrainedConfig


def entries_of_stored(stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the stored entries but the classes, as `from_pretrained` takes them.

    Args:
        stored: the entries; JSON has made words of the labels' numbers.
    """
    entries = {name: value for name, value in (stored or {}).items() if name != "architectures"}
    if entries.get("id2label") is not None:
        entries["id2label"] = {int(key): label for key, label in entries["id2label"].items()}
        entries.pop("num_labels", None)
    return entries


def config_of_stored(base: str | os.PathLike, stored: Mapping[str, Any] | None) -> PretrainedConfig:
    """Return the base's configuration with the entries that were stored: its classes and labels, above all.

    Args:
        base: folder, or name on the hub. stored: see `entries_of_stored`.
    """
    config = AutoConfig.from_pretrained(base, **entries_of_stored(stored))
    if (stored or {}).get("architectures"):
        config.architectures = stored["architectures"]
    return config
