"""Diff pruning's baselines, by its first stage's program: full finetuning, and the task head alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, Trainer

from ....artefacts.base import Base
from ....diffs import SparseDiff
from ...trainer.mean_loss import declare_mean_loss
from ..chassis.places import check_written_file
from ..chassis.system import Setup
from .arguments import DiffOptions
from .stage import PACK, DiffStage


class Baseline(DiffStage):
    """Finetunes some of the base's own weights, without a diff."""

    def check(self) -> None:
        if not self.setup.args.do_train:
            raise ValueError("nothing to do: give --do_train")

    def method_name(self) -> str:
        return self.options.method.baseline

    def settings(self) -> dict[str, Any]:
        fix_layer = self.options.method.fix_layer
        return {**super().settings(), **({} if fix_layer < 0 else {"fix_layer": fix_layer})}

    def label(self, model: PreTrainedModel) -> str:
        return self.method_name()

    def load(self) -> PreTrainedModel:
        return self.load_base()

    def learning(self, model: PreTrainedModel) -> set[str]:
        """Return the names of the parameters that learn."""
        raise NotImplementedError

    def trainer(self, model: PreTrainedModel) -> Trainer:
        declare_mean_loss(model)  # before the Trainer is made
        learning = self.learning(model)
        for name, weight in model.named_parameters():
            weight.requires_grad_(name in learning)
        return self.stock_trainer(model)


class FullFinetuning(Baseline):
    """Finetunes all weights (`--baseline full`); the model it leaves is for stage 2, too (non-adaptive)."""

    def __init__(self, setup: Setup, options: DiffOptions):
        super().__init__(setup, options)
        self._total = self._bytes = 0

    def load(self) -> PreTrainedModel:
        model = super().load()
        self._total = sum(model.get_parameter(name).numel() for name in self.body_of(model))
        self._bytes = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        return model

    def learning(self, model: PreTrainedModel) -> set[str]:
        return {*self.task_head, *self.body_of(model)} - set(self.frozen(model))

    def figures(self) -> dict[str, Any]:
        sizes = {"bytes": self._bytes, "full_bytes": self._bytes}
        return {"diff": {"method": self.method_name(), "total": self._total, "density": 1.0, **sizes}}


class LastLayer(Baseline):
    """Finetunes the task head (`--baseline last-layer`); scores the reloaded pack, which has no positions."""

    def check(self) -> None:
        super().check()
        read = {"model_name_or_path": self.setup.model.model_name_or_path}
        check_written_file("save_pack", self.path, read)

    @property
    def path(self) -> Path:
        """The file of the pack to write."""
        return Path(self.options.fixmask.save_pack or f"{self.setup.args.output_dir}/{PACK}")

    def learning(self, model: PreTrainedModel) -> set[str]:
        self.frozen(model)  # more layers than there are is refused here, too
        return set(self.task_head)

    def save(self, trainer: Trainer) -> None:
        model = trainer.model
        base = Base.of(model, self.task_head)  # the body has not moved
        task_head, config = self.task_head_of(model), {"method": self.method_name()}
        self.write_pack(self.path, model, SparseDiff({}, {}), base, task_head, "float16", config)

    def deployed(self, trainer: Trainer) -> Trainer:
        return self.stock_trainer(self.load_with_pack().to(self.setup.args.device))
