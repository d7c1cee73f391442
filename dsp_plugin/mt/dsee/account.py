"""What a stage costs and leaves: numbers trained and not zero, weights left, operations, bytes, and time."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from ...artefacts.base import Base
from ...dsee.artefact import DseeFile
from ...dsee.measuring import flops_of, latency_of, measured_lines
from ..surgery.base_checkpoint import BaseCheckpoint
from ..surgery.equality import model_of, placeholder_task
from .deployed import merged_state

ROWS, LENGTH = 8, 20  # of the batch that is counted and timed, on either side

# of what a file says, what its account repeats
_SAID = ("stage", "num_sparse", "sparse_method", "targets", "seed", "pruning", "updates", "training_seed")


def account_of(base: BaseCheckpoint, file: DseeFile, path: str | os.PathLike) -> dict[str, Any]:
    """Work out the account of what a file makes of its base.

    Args:
        base: whose identity was checked. path: where the file lies.
    """
    state = merged_state(base.source, file)
    plain, merged = base.model().eval(), model_of(state, placeholder_task(state["model"]))
    # as the base's and as fairseq-generate's: torch multiplies by frozen weights in another, slower way
    merged.requires_grad_(True)
    updates = file.updates.values()
    low_rank = [part for one in updates for part in (one.down, one.up)]
    sparse = [one.values for one in updates]
    gone = sum(mask.size - mask.kept for mask in file.masks.values())
    merged_base = Base.of(merged)
    passes = {name: pass_of(model) for name, model in (("base", plain), ("deployed", merged))}
    return {
        **{name: file.config[name] for name in _SAID if name in file.config},
        "trainable": file.count,
        "update_nonzeros": {"low_rank": _nonzeros(low_rank), "sparse": _nonzeros(sparse)},
        "base_weights": file.base.total,
        "weights_left": merged_base.total - gone,
        "merged_nonzeros": _nonzeros(list(merged.parameters())),
        "bytes": os.path.getsize(path),
        "batch": [ROWS, LENGTH],
        "flops": {name: flops_of(call) for name, call in passes.items()},
        "latency": latency_of(**passes, device=torch.device("cpu")),
    }


def account_lines(account: dict[str, Any]) -> list[str]:
    """Say an account in lines."""
    whole, left, nonzeros = (account[name] for name in ("base_weights", "weights_left", "update_nonzeros"))
    rows, length = account["batch"]
    return [
        f"stage {account['stage']}: {account['trainable']:,} numbers learn "
        f"({100 * account['trainable'] / whole:.2f} % of the base's {whole:,}); not zero: "
        f"{nonzeros['low_rank']:,} of low rank, {nonzeros['sparse']:,} single entries",
        f"weights of the base that are left: {left:,} ({100 * left / whole:.1f} %); not zero after merging: "
        f"{account['merged_nonzeros']:,}; file: {account['bytes']:,} bytes",
        *measured_lines(account, f"{rows} x {length} tokens on either side"),
    ]


def pass_of(model: nn.Module) -> Any:
    """Return a call of a model on random tokens, the same for all models of these dictionaries."""
    generator = torch.Generator().manual_seed(0)
    size = [ROWS, LENGTH]
    words = [getattr(model, side).embed_tokens.num_embeddings for side in ("encoder", "decoder")]
    first = 4  # words before it are marks
    source, target = (torch.randint(min(first, n - 1), n, size, generator=generator) for n in words)
    lengths = torch.full((ROWS,), LENGTH)
    return lambda: model(source, lengths, target)


def _nonzeros(tensors: list[Tensor]) -> int:
    return sum(int(tensor.count_nonzero()) for tensor in tensors)
