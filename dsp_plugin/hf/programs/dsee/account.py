"""What a stage costs and leaves: numbers trained and not zero, operations, bytes, and measured time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from ...dsee import dsee_of, merge_dsee
from ...dsee.layer import dsee_layers
from ..chassis.parsing import say

ROWS = 8  # of the batch that is counted and timed
PAIRS = 5
LONGEST = 20.0  # seconds after which no further pair is timed


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
    found["flops"] = {"base": _flops(base, batch), "deployed": _flops(model, batch)}
    found["latency"] = _latency(base, model, batch)
    return found


def say_account(account: Mapping[str, Any]) -> None:
    """Print the account's lines."""
    whole, nonzeros, flops = account["base_weights"], account["update_nonzeros"], account["flops"]
    left, time_of = account["weights_left"], account["latency"]
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
    saved = 1 - flops["deployed"] / flops["base"] if flops["base"] else 0.0
    say(
        f"a batch of {rows} x {length} tokens: {flops['deployed'] / 1e9:.4g} of the base's "
        f"{flops['base'] / 1e9:.4g} GFLOPs ({100 * saved:.1f} % saved)"
    )
    say(
        f"time of it: {1e3 * time_of['deployed']:.1f} ms, base {1e3 * time_of['base']:.1f} ms, "
        f"{time_of['speedup']:.2f} times as fast (from {time_of['least']:.2f} to {time_of['most']:.2f} in "
        f"{time_of['pairs']} pairs, {time_of['threads']} threads)"
    )


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


@torch.no_grad()
def _flops(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> int:
    model.eval()
    with FlopCounterMode(display=False) as counter:
        model(**batch)
    return int(counter.get_total_flops())


@torch.no_grad()
def _latency(base: nn.Module, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Time both in turn; return medians in seconds, and the median of the pairs' ratios."""
    times: dict[str, list[float]] = {"base": [], "deployed": []}
    begun = time.perf_counter()
    for number in range(PAIRS + 1):
        pair = [("base", base), ("deployed", model)]
        for name, one in pair if number % 2 else reversed(pair):
            started = time.perf_counter()
            one(**batch)
            if batch["input_ids"].is_cuda:
                torch.cuda.synchronize()
            if number:  # the first is slower
                times[name].append(time.perf_counter() - started)
        if number and time.perf_counter() - begun > LONGEST:
            break
    ratios = [one / other for one, other in zip(times["base"], times["deployed"])]
    return {
        **{name: statistics.median(found) for name, found in times.items()},
        "speedup": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "pairs": len(ratios),
        "threads": torch.get_num_threads(),
        "device": batch["input_ids"].device.type,
    }
