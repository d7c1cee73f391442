"""What the methods of a file train, by method, and what the model that it makes of its base costs."""

from __future__ import annotations

import os
from typing import Any

import torch

from ...delta.artefact import DeltaFile
from ...dsee.measuring import flops_of, latency_of, measured_lines
from ..dsee.account import LENGTH, ROWS, pass_of
from ..surgery.base_checkpoint import BaseCheckpoint
from ..surgery.equality import model_of, placeholder_task
from .files import last_stage
from .merging import merge_into


def figures_of(file: DeltaFile) -> dict[str, Any]:
    """Return what a file says of itself: numbers by method, stages, settings, and its making."""
    methods = {
        method: {"parameters": part.count, "stage": part.stage, **part.settings}
        for method, part in file.parts.items()
    }
    last = last_stage(file)
    trainable = sum(part.count for part in file.parts.values() if part.stage == last)
    return {
        **{name: value for name, value in file.config.items() if name != "model_config"},
        "methods": methods,
        "stage": last,
        "trainable": trainable,
        "positions": file.count,
        "base_weights": file.base.total,
    }


def account_of(base: BaseCheckpoint, file: DeltaFile, path: str | os.PathLike) -> dict[str, Any]:
    """Work out the account of what a file makes of its base.

    Args:
        base: the file's. path: where the file lies.
    """
    state = merge_into(base, file)
    plain, deployed = base.model().eval(), model_of(state, placeholder_task(state["model"]))
    passes = {name: pass_of(model) for name, model in (("base", plain), ("deployed", deployed))}
    return {
        **figures_of(file),
        "bytes": os.path.getsize(path),
        "batch": [ROWS, LENGTH],
        "flops": {name: flops_of(call) for name, call in passes.items()},
        "latency": latency_of(**passes, device=torch.device("cpu")),
    }


def account_lines(account: dict[str, Any]) -> list[str]:
    """Say an account in lines."""
    whole, (rows, length) = account["base_weights"], account["batch"]
    methods = [f"{name} {one['parameters']:,}" for name, one in account["methods"].items()]
    return [
        f"stage {account['stage']}: {account['trainable']:,} numbers learn "
        f"({100 * account['trainable'] / whole:.2f} % of the base's {whole:,})",
        f"in all: {', '.join(methods)}; file: {account['bytes']:,} bytes",
        *measured_lines(account, f"{rows} x {length} tokens on either side"),
    ]
