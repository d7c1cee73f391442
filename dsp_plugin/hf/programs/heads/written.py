"""What a run with head gates leaves beside its records: masks with scores, and the pruned model."""

from __future__ import annotations

import json
import os
from typing import Any

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ....options.errors import OptionError
from ....records.files.sealed import write_json
from ...folders.model_heads import pruned_copy
from ...folders.pruned_folders import save_pruned
from ...heads.gating import switchboard_of
from ...heads.surgery.pruning import check_surgery, count_parameters
from ...heads.units import head_map_of
from ..chassis.arguments import ModelArguments
from ..chassis.parsing import say

MASK_EVERY = 1000  # updates between two files of --intermediate_masks


def check_prunable(model: PreTrainedModel, options: ModelArguments) -> None:
    """Try whether heads can be removed from a model that is to lose some at the end; it stays as it is.

    Raises:
        ValueError: they cannot; names the option.
    """
    try:
        check_surgery(model)
    except ValueError as error:
        raise OptionError(
            "model_name_or_path",
            f"{options.model_name_or_path}: its heads cannot be removed: {error} ({{}} chooses heads and "
            "removes none)",
            "no_pruned",
        ) from error


def write_mask(path: str, model: PreTrainedModel, updates: int | None = None) -> None:
    """Write {"blocks", "keep", "scores"} of a gated model, in the order of its heads as they are now."""
    gates = switchboard_of(model).gates
    content = {
        **head_map_of(model).to_dict(),
        "keep": [bool(flag) for flag in gates.keep().tolist()],
        "scores": [float(score) for score in gates.scores.detach().tolist()],
        **({} if updates is None else {"updates": updates}),
    }
    write_json(path, json.dumps(content) + "\n")


class IntermediateMasks(TrainerCallback):
    """Writes output_dir/masks/mask-UPDATES.json every 1000 updates (`--intermediate_masks`)."""

    def __init__(self, model: PreTrainedModel):
        self.model = model

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % MASK_EVERY == 0 and state.is_world_process_zero:
            path = os.path.join(args.output_dir, "masks", f"mask-{state.global_step:07d}.json")
            write_mask(path, self.model, state.global_step)


def save_pruned_model(model: PreTrainedModel, tokenizer: Any, folder: str, before: int) -> None:
    """Write the model without its dead heads, for `load_pruned` and these programs' --model_name_or_path."""
    smaller = pruned_copy(model)
    save_pruned(smaller, folder, before, tokenizer)
    say(f"pruned model: {folder}, {count_parameters(smaller):,} of {before:,} parameters")
