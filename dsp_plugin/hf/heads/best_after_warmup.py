"""Keeps a Trainer from taking a checkpoint of the gates' warm-up for its best one: its heads are random.

The Trainer notes the best evaluation only after its callbacks have heard of it, and acts on the note later:
it keeps that checkpoint, measures the next evaluations by it, and may end with it. So the note of an
evaluation in the warm-up is taken back before the next update, and after every save.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os

from transformers import TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ...records.files.whole import write_text

logger = logging.getLogger(__name__)

TRAINER_STATE = "trainer_state.json"


class BestAfterWarmup:
    """Takes the Trainer's notes of best evaluations back while they are of the warm-up, and says so once.

    Args:
        warmup_updates: updates in which the scores of the heads do not learn. After so many updates they are
            still random.
    """

    def __init__(self, warmup_updates: int):
        self.warmup_updates = warmup_updates
        self._said = False

    def begin_training(self) -> None:
        """Let a training that begins hear the warning again."""
        self._said = False

    def forget(self, state: TrainerState) -> bool:
        """Take a note of the warm-up out of the Trainer's state. Return whether there was one."""
        if state.best_global_step is None or state.best_global_step > self.warmup_updates:
            return False
        state.best_metric = state.best_global_step = state.best_model_checkpoint = None
        if not self._said and state.is_world_process_zero:
            self._said = True
            logger.warning(
                "evaluations in the warm-up, until update %s, are not taken for the best: the heads that "
                "they keep are random",
                f"{self.warmup_updates:,}",
            )
        return True

    def forget_saved(self, args: TrainingArguments, state: TrainerState) -> None:
        """Take the note out of the checkpoint that was just saved, too."""
        path = os.path.join(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}", TRAINER_STATE)
        if self.forget(state) and args.should_save and os.path.isfile(path):
            write_text(path, json.dumps(dataclasses.asdict(state), indent=2, sort_keys=True) + "\n")

    def end_training(self, args: TrainingArguments, state: TrainerState) -> None:
        """Warn, after a training, that the model is the last one because no checkpoint could be chosen."""
        nothing_to_choose = args.load_best_model_at_end and state.best_model_checkpoint is None
        if nothing_to_choose and self._said and state.is_world_process_zero:
            logger.warning(
                "no checkpoint after the warm-up was evaluated: the model is that of the last update, not "
                "of a best one"
            )
