"""A model's heads as records have them: which are kept, in the original numbers, and what weights remain."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig, PreTrainedModel

from ...gating import HeadMap, Switchboard
from ...records.record import kept_heads
from ...surgery import KeptHeads, compose, mask_of_record
from ..heads.gating import GATING, switchboard_of, ungate_heads
from ..heads.surgery.kept_heads import KEPT_HEADS, neuron_groups_of, original_count, record_of
from ..heads.surgery.pruning import count_parameters, fill_heads, original_head_map, prune_heads
from ..heads.units import named_units


def heads_of(model: PreTrainedModel) -> dict[str, Any] | None:
    """Return the `heads` field of a record: what heads a gated, pruned or untouched model keeps.

    Groups of neurons are in it where some were removed, or have gates. None for a model whose heads cannot be
    told apart (XLNet), which can be finetuned all the same.
    """
    record, gated = record_of(model), switchboard_of(model)
    try:
        original = _original(model, gated)
    except ValueError:
        if record is not None or gated is not None:
            raise
        return None
    if gated is not None:
        record = _with_gates(gated, original, record)
    if record is None:
        return kept_heads(original.to_dict(), [True] * original.num_heads)
    return kept_heads(original.to_dict(), mask_of_record(record, original).tolist())


def _original(model: PreTrainedModel, gated: Switchboard | None) -> HeadMap:
    """Return the units the model had before any removal: all heads, and groups of neurons where some were
    removed or have gates, in the order of the model.
    """
    new = {} if gated is None else {b.name: b.neurons for b in gated.head_map.blocks if b.neurons}
    if not new:
        return original_head_map(model)
    units = named_units(model, {**new, **neuron_groups_of(model)})
    return HeadMap([replace(one.block, num_heads=original_count(one)) for one in units])


def _with_gates(board: Switchboard, original: HeadMap, record: KeptHeads | None) -> KeptHeads:
    """Return the record after removal by the gates; blocks without gates keep what they have."""
    all_units = {block.name: list(range(block.num_heads)) for block in original.blocks}
    before = {**all_units, **(record or {})}
    earlier = {block.name: before[block.name] for block in board.head_map.blocks}
    return {**before, **compose(board.head_map, board.gates.keep(), earlier)}


def is_pruned(model: PreTrainedModel) -> bool:
    """Whether some of a model's heads were removed."""
    return record_of(model) is not None


def tells_kept_heads(config: PreTrainedConfig) -> bool:
    """Whether a configuration is of a model of which some heads were removed."""
    return getattr(config, KEPT_HEADS, None) is not None


def pruned_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Copy a gated model without its dead heads; the given one is not changed."""
    smaller = copy.deepcopy(model)
    prune_heads(smaller)
    return smaller


def parameters_of(model: PreTrainedModel) -> dict[str, int]:
    """Count the weights of the model with all the heads it once had, and with the deployed ones alone."""
    dense = copy.deepcopy(model)
    ungate_heads(dense)
    if is_pruned(dense):
        fill_heads(dense)
    before = count_parameters(dense)
    del dense
    after = count_parameters(model if switchboard_of(model) is None else pruned_copy(model))
    return {"before": before, "after": after}


def has_scores(name: str) -> bool:
    """Return whether a folder holds a gated model, whose heads are all open when loaded without its gates."""
    path = Path(name) / "model.safetensors"
    if not path.is_file():
        return False
    try:
        with safe_open(path, "pt") as file:
            return any(key.startswith(GATING + ".") for key in file.keys())
    except SafetensorError:
        return False
