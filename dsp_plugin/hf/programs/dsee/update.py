"""Stage I of DSEE: an update of low rank, with single entries beside it, is trained on a frozen base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ....options.errors import OptionError
from ...dsee.adding import find_task_head
from ..chassis.system import Setup, System
from ..chassis.train import read_options, train_system
from ..chassis.tuning import TuningArguments, train_and_tune
from .arguments import StartArguments, UpdateArguments, without_idle_flags
from .stage import DseeStage

OPTIONS = (UpdateArguments, StartArguments, TuningArguments)


def run_update(doc: str, data: type, argv: Sequence[str]) -> dict[str, Any]:
    """Run the program of stage I; without --apply_lora, finetune all weights. Arguments as `read_options`,
    result as `train_and_tune`.
    """
    setup, (update, begin, tuning) = read_options(doc, data, OPTIONS, without_idle_flags(argv))
    return update_or_finetune(setup, update, begin, tuning)


def update_or_finetune(
    setup: Setup, update: UpdateArguments, begin: StartArguments, tuning: TuningArguments
) -> dict[str, Any]:
    """Run stage I, or finetune all weights without --apply_lora; see `train_and_tune`."""
    if not update.apply_lora:
        if begin.dsee_checkpoint:
            raise OptionError("dsee_checkpoint", "is an update: give {}, too", "apply_lora")
        return train_and_tune(System(setup), tuning)
    if tuning.tune_epochs is not None:
        raise OptionError("tune_epochs", "trains all weights on, which {} freezes", "apply_lora")
    return train_system(UpdateStage(setup, update, begin))


class UpdateStage(DseeStage):
    """Trains A, B, S2 and the task head; writes and scores the file. Without --do_train it scores
    --dsee_checkpoint.
    """

    number = "I"

    def check(self) -> None:
        super().check()
        given, trains = self.begin.dsee_checkpoint, self.setup.args.do_train
        if trains and given:
            reason = "is trained already: {} is for scoring it; run_glue_prune.py prunes it and trains it on"
            raise OptionError("dsee_checkpoint", reason, "do_eval")
        if not trains and self.start is None:
            raise OptionError("dsee_checkpoint", "says what is to be scored without {}", "do_train")

    def load(self) -> PreTrainedModel:
        if not self.setup.args.do_train:
            return self.load_file(self.start_path)
        model = self.load_base()
        self.begin_update(model)
        set_dropout(model, self.update.cls_dropout)
        return model


def set_dropout(model: nn.Module, probability: float | None) -> None:
    """Set the dropout before the task head; None leaves it.

    Raises:
        OptionError: no probability below 1, or there is no dropout there.
    """
    if probability is None:
        return
    base = getattr(model, "base_model", model)
    inside = {id(module) for module in base.modules()}
    found = [one for one in model.modules() if isinstance(one, nn.Dropout) and id(one) not in inside]
    if not found or not find_task_head(model, None):
        reason = f"{probability}: {type(model).__name__} has no dropout before its task head"
        raise OptionError("cls_dropout", reason)
    for one in found:
        one.p = probability
