"""The heads a fairseq run would have kept at every validation, written beside its checkpoints."""

from torch import nn

from ...records.history import append_heads, read_history

__all__ = ["note_heads", "read_history"]


def note_heads(model: nn.Module, save_dir: str) -> None:
    """Append the heads that would be deployed now to `save_dir`/heads.jsonl; nothing without gates."""
    if getattr(model, "gating", None) is not None:
        # the model is told of an update before it is made
        append_heads(save_dir, model.gating.num_updates + 1, model.gating.gates.keep().tolist())
