"""What the programs leave behind: records, masks with scores, the pruned model; and what they say of them."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ....records.files.sealed import write_json
from ....records.record import Metric, Record, mask_of, new_record, save_record
from ....reports.pictures.heads import head_map_text
from ...folders.pruned_folders import save_pruned
from ...heads.gating import switchboard_of, ungate_heads
from ...heads.layouts.locate import head_map_of
from ...heads.surgery.kept_heads import record_of
from ...heads.surgery.pruning import count_parameters, fill_heads, prune_heads
from .parsing import say

MASK_EVERY = 1000  # updates between two files of --intermediate_masks


def write_mask(path: str, model: PreTrainedModel, updates: int | None = None) -> None:
    """{"blocks", "keep", "scores"} of a gated model, in the order of its heads as they are now."""
    gates = switchboard_of(model).gates
    content = {
        **head_map_of(model).to_dict(),
        "keep": [bool(flag) for flag in gates.keep().tolist()],
        "scores": [float(score) for score in gates.scores.detach().tolist()],
        **({} if updates is None else {"updates": updates}),
    }
    write_json(path, json.dumps(content) + "\n")


class IntermediateMasks(TrainerCallback):
    """`--intermediate_masks`: output_dir/masks/mask-UPDATES.json every 1000 updates."""

    def __init__(self, model: PreTrainedModel):
        self.model = model

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % MASK_EVERY == 0 and state.is_world_process_zero:
            path = os.path.join(args.output_dir, "masks", f"mask-{state.global_step:07d}.json")
            write_mask(path, self.model, state.global_step)


def pruned_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A gated model without its dead heads; the given one is not changed."""
    smaller = copy.deepcopy(model)
    prune_heads(smaller)
    return smaller


def parameters_of(model: PreTrainedModel) -> dict[str, int]:
    """Weights of the model with all the heads it once had, and with the deployed ones alone."""
    dense = copy.deepcopy(model)
    ungate_heads(dense)
    if record_of(dense) is not None:
        fill_heads(dense)
    before = count_parameters(dense)
    del dense
    after = count_parameters(model if switchboard_of(model) is None else pruned_copy(model))
    return {"before": before, "after": after}


def save_pruned_model(model: PreTrainedModel, tokenizer: Any, folder: str, before: int) -> None:
    """The model without its dead heads, ready for `load_pruned` and, as --model_name_or_path, for these
    programs.
    """
    smaller = pruned_copy(model)
    save_pruned(smaller, folder, before, tokenizer)
    say(f"pruned model: {folder}, {count_parameters(smaller):,} of {before:,} parameters")


class Records:
    """Writes the records of one run, which share setting, method, heads and seed.

    Args:
        kind: "glue" or "squad": the first word of the records' kind.
        folder: where results.json of the training goes; one scored split each has a folder in it.
        common: the fields they share.
    """

    def __init__(self, kind: str, folder: str, **common: Any):
        self.kind, self.folder, self.common = kind, folder, common

    def training(self, seconds: float, updates: int, extra: Mapping[str, Any]) -> Record:
        record = self._new("train", seconds={"train": seconds}, updates=updates, extra=dict(extra))
        save_record(record, os.path.join(self.folder, "results.json"))
        return record

    def scoring(
        self, split: str, metrics: list[Metric], seconds: float | None, extra: Mapping[str, Any]
    ) -> Record:
        took = {} if seconds is None else {"evaluate": seconds}
        record = self._new("score", metrics=metrics, seconds=took, extra=dict(extra))
        save_record(record, os.path.join(self.folder, split, "results.json"))
        return record

    def _new(self, what: str, **fields: Any) -> Record:
        return new_record(f"{self.kind}-{what}", **self.common, **fields)


def say_heads(heads: Mapping[str, Any]) -> None:
    """The map of the kept heads, with their number."""
    print(head_map_text(heads, mask_of(heads)), flush=True)
