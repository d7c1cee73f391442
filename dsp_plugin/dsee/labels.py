"""The names of DSEE's methods in records, on every host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def label_of(config: Mapping[str, Any]) -> str:
    """Name what a file's configuration says: `lora`, `dsee`, `dsee-omp`, then what was pruned.

    As `dsee-h3-n0.4`, and where the update was not trained on after it, `dsee-w0.2-q0.2-untuned`.
    """
    method = config.get("sparse_method", "grebsmo")
    parts = ["dsee" if config.get("num_sparse") else "lora"]
    if config.get("num_sparse") and method != "grebsmo":
        parts.append(str(method))
    pruning = config.get("pruning")
    pruning = pruning if isinstance(pruning, Mapping) else {}
    for letter, name in (
        ("h", "prune_heads_num"),
        ("n", "prune_neurons"),
        ("w", "pruning_ratio"),
        ("q", "ad_pruning_ratio"),
    ):
        if isinstance(pruning.get(name), (int, float)) and pruning[name]:
            parts.append(f"{letter}{pruning[name]:g}")
    if pruning and pruning.get("prune_mode", "WABS") != "WABS":
        parts.append(str(pruning["prune_mode"]))
    if pruning.get("gradual_updates"):
        parts.append("gradual")
    if pruning.get("mask_update"):
        parts.append("masked")
    if pruning and config.get("stage") == "II":
        parts.append("untuned")
    return "-".join(parts)
