"""What a stage costs and leaves: numbers trained and not zero, operations, bytes, and measured time."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ....dsee.measuring import flops_of, latency_of, measured_lines
from ...dsee import dsee_of, merge_dsee
from ...dsee.layer import dsee_layers
from ..chassis.parsing import say

ROWS = 8  # of the batch that is counted and timed


def account_of(
    base: PreTrainedModel, model: PreTrainedModel, path: Path, length: int, stage: str
) -> dict[str, Any]:
    """Work out the account of a model with an update, beside its base; the model is merged meanwhile.

    Args:
        base: without update and pruning. model: the base with what the file at `path` has, same device.
        length: tokens of each of the batch's rows. stage: its number.
    """
    state, layers = dsee_of(model), dsee_layers(model)
    parameters = dict(model.named_parameters())
    low_rank = [part for layer in layers.values() for part in (layer.down, layer.up)]
    sparse = [layer.dsee_values for layer in layers.values()]
    task_head = [parameters[name] for name in state.task_head]
    update = {"low_rank": low_rank, "sparse": sparse, "task_head": task_head}
    found: dict[str, Any] = {
        "stage": stage,
        **{name: value for name, value in state.settings.items() if _is_plain(value)},
        "trainable": _count(low_rank) + _count(sparse) + _count(task_head),
        "trainable_without_task_head": _count(low_rank) + _count(sparse),
        "update_nonzeros": {name: _nonzeros(tensors) for name, tensors in update.items()},
        "base_weights": state.base.total,
        "weights_left": _left(model, state.base.total),
        "bytes": path.stat().st_size,
    }
    merge_dsee(model)
    body = [parameter for name, parameter in model.named_parameters() if name not in {*state.task_head}]
    found["merged_nonzeros"] = _nonzeros(body)
    batch = _batch(model, length)
    found["batch"] = [ROWS, batch["input_ids"].shape[1]]
    passes = {"base": partial(base.eval(), **batch), "deployed": partial(model.eval(), **batch)}
    found["flops"] = {name: flops_of(call) for name, call in passes.items()}
    found["latency"] = latency_of(**passes, device=batch["input_ids"].device)
    return found


def say_account(account: Mapping[str, Any]) -> None:
    """Print the account's lines."""
    whole, nonzeros = account["base_weights"], account["update_nonzeros"]
    left = account["weights_left"]
    rows, length = account["batch"]
    say(
        f"stage {account['stage']}: {account['trainable']:,} numbers learn "
        f"({100 * account['trainable'] / whole:.2f} % of the base's {whole:,}); not zero: "
        f"{nonzeros['low_rank']:,} of low rank, {nonzeros['sparse']:,} single entries, "
        f"{nonzeros['task_head']:,} of the task head"
    )
    say(
        f"weights of the base that are left: {left:,} ({100 * left / whole:.1f} %); not zero after merging: "
        f"{account['merged_nonzeros']:,}; file: {account['bytes']:,} bytes"
    )
    for line in measured_lines(account, f"{rows} x {length} tokens"):
        say(line)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool, list, dict))


def _count(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _nonzeros(tensors: list[torch.Tensor]) -> int:
    return sum(int(tensor.count_nonzero()) for tensor in tensors)


def _left(model: PreTrainedModel, total: int) -> int:
    """Count the weights of the base, embeddings included, that no pruning has taken."""
    state, layers = dsee_of(model), dsee_layers(model)
    own = {
        id(part)
        for layer in layers.values()
        for name, part in layer.named_parameters()
        if not name.startswith("base_layer.")
    }
    head = {*state.task_head}
    here = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if id(parameter) not in own and name not in head
    )
    return here - sum(mask.size - mask.kept for mask in state.masks.values())


def _batch(model: PreTrainedModel, length: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (ROWS, length), generator=generator)
    device = next(model.parameters()).device
    return {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}
