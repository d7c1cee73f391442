"""Stage III of DSEE: the update is trained on over pruned weights, which stay exactly 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel, Trainer

from ....options.errors import OptionError
from ...dsee import GradualPruning, dsee_of
from ..chassis.system import Setup
from .arguments import PruneArguments, StartArguments, UpdateArguments
from .prune import check_begun, check_trained
from .stage import DseeStage
from .update import set_dropout


class TuneStage(DseeStage):
    """Trains on what --dsee_checkpoint has, pruned before or, with --gradual_updates, meanwhile; writes and
    scores the file. Without --do_train it scores --dsee_checkpoint.
    """

    number = "III"

    def __init__(self, setup: Setup, update: UpdateArguments, begin: StartArguments, pruning: PruneArguments):
        super().__init__(setup, update, begin)
        self.gradual = pruning if pruning.gradual_updates else None

    def check(self) -> None:
        super().check()
        check_begun(self.begin)
        if self.gradual is None:
            return
        if self.gradual.mask_update:
            raise OptionError("mask_update", "does not go with {} yet", "gradual_updates")
        if self.setup.args.load_best_model_at_end:
            reason = "does not go with {}: an early checkpoint has more weights than were asked for"
            raise OptionError("load_best_model_at_end", reason, "gradual_updates")

    def settings(self) -> dict[str, Any]:
        pruning = self.gradual.figures() if self.gradual else {}
        return {**super().settings(), "pruning": pruning}

    def load(self) -> PreTrainedModel:
        if not self.setup.args.do_train:
            return self.load_file(self.start_path)
        model = self.load_base()
        self.begin_update(model)
        check_trained(model, self.begin)
        set_dropout(model, self.update.cls_dropout)
        return model

    def work_out(self, model: PreTrainedModel, updates: int, noted: Mapping[str, Any]) -> dict[str, Any]:
        if self.gradual is not None and self.gradual.gradual_updates > updates:
            raise OptionError("gradual_updates", f"is more than the {updates} updates of the training")
        return {}

    def about(self, model: PreTrainedModel) -> dict[str, Any]:
        found = super().about(model)
        if self.gradual is not None:
            earlier = dsee_of(model).settings.get("pruning")
            found["pruning"] = {**(earlier if isinstance(earlier, dict) else {}), **self.gradual.figures()}
        return found

    def trainer(self, model: PreTrainedModel) -> Trainer:
        made = super().trainer(model)
        if self.gradual is not None and self.setup.args.do_train:
            one = self.gradual
            ratios = (one.pruning_ratio, one.ad_pruning_ratio, one.prune_mode)
            span = (0, one.gradual_updates, one.gradual_every)
            made.add_callback(GradualPruning(model, *ratios, *span, self.setup.args.seed))
        return made
