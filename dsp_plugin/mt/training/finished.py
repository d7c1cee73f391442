"""When a training is finished: fairseq looks only after an update, so makes one more at every start."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Optional

PATIENCE = "dsp_patience"
"""Key in a checkpoint's task state: {"best": score, "num_runs": validations since it}."""


def finished(state: dict[str, Any], optimization, checkpointing) -> Optional[str]:
    """Say why the training that wrote a checkpoint is at its end; None if it is not.

    Args:
        state: the checkpoint.
        optimization, checkpointing: fairseq's options of these groups, as they are now.
    """
    extra, patience = state.get("extra_state") or {}, checkpointing.patience
    updates = (state.get("optimizer_history") or [{}])[-1].get("num_updates", 0)
    if optimization.max_update and updates >= optimization.max_update:
        return f"{updates} updates are made, --max-update is {optimization.max_update}"
    epoch = (extra.get("train_iterator") or {}).get("epoch", 1)  # the one that is next, or under way
    if optimization.max_epoch and epoch > optimization.max_epoch and not checkpointing.reset_dataloader:
        return f"{epoch - 1} epochs are made, --max-epoch is {optimization.max_epoch}"
    hours = extra.get("previous_training_time", 0) / 3600
    if 0 < optimization.stop_time_hours < hours:
        return f"it took {hours:.3g} hours, --stop-time-hours is {optimization.stop_time_hours}"
    without = ((state.get("task_state") or {}).get(PATIENCE) or {}).get("num_runs", 0)
    if 0 < patience <= without:
        return f"the last {without} validations were no better, --patience is {patience}"
    return None


def patience_now() -> Optional[dict[str, Any]]:
    """Return what early stopping remembers of validations, in a function's attributes; None at first."""
    for memory in _early_stopping():
        if hasattr(memory, "best"):
            return {"best": float(memory.best), "num_runs": int(memory.num_runs)}
    return None


def restore_patience(state: Optional[dict[str, Any]]) -> None:
    """Let early stopping go on from `patience_now`; from None as if this process had trained nothing."""
    for memory in _early_stopping():
        if state:
            memory.best, memory.num_runs = state["best"], state["num_runs"]
        elif hasattr(memory, "best"):
            del memory.best, memory.num_runs


def _early_stopping() -> Iterator[Any]:
    """Find `should_stop_early`: of the module, and of `python -m fairseq_cli.train` where that is main."""
    for module in ("fairseq_cli.train", "__main__"):
        found = getattr(sys.modules.get(module), "should_stop_early", None)
        if found is not None:
            yield found
