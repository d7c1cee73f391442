"""Which heads a run would have kept at every validation, written beside its checkpoints as it trains."""

import json
import os
from typing import Any, Dict, List

from torch import nn

HISTORY = "heads.jsonl"


def note_heads(model: nn.Module, save_dir: str) -> None:
    """Append {"updates", "keep": 0 or 1 a head, in head-map order} to `save_dir`/heads.jsonl; nothing without gates."""
    if getattr(model, "gating", None) is None:
        return
    os.makedirs(save_dir, exist_ok=True)
    # the model is told of an update before it is made
    entry = {"updates": model.gating.num_updates + 1, "keep": model.gating.gates.keep().int().tolist()}
    with open(os.path.join(save_dir, HISTORY), "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def read_history(save_dir: str) -> List[Dict[str, Any]]:
    """The entries in the order of their updates; of a part that was trained twice (after a kill) the later one."""
    path = os.path.join(save_dir, HISTORY)
    if not os.path.isfile(path):
        return []
    by_updates = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                entry = json.loads(line)
                by_updates[int(entry["updates"])] = entry
            except (ValueError, KeyError, TypeError):  # the line that a kill cut off
                continue
    return [by_updates[updates] for updates in sorted(by_updates)]
