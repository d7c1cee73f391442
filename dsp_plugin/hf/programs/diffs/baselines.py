"""What diff pruning is compared with, by its first stage's program: full finetuning, and the task head
alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, Trainer

from ....diffs import SparseDiff
from ....diffs.base import Base
from ...trainer.mean_loss import declare_mean_loss
from ..chassis.places import check_written_file
from .run import PACK, DiffRun


class BaselineRun(DiffRun):
    """`--baseline full` leaves a model in --output_dir, which stage 2 takes as well (non-adaptive);
    `--baseline last-layer` a pack without positions, and scores it reloaded."""

    def prepare(self) -> None:
        if not self.args.do_train:
            raise ValueError("nothing to do: give --do_train")
        if not self._full:
            check_written_file(
                "--save_pack", self._path(), {"--model_name_or_path": self.options.model_name_or_path}
            )

    def _path(self) -> Path:
        """Of the pack to write."""
        return Path(self.fixmask.save_pack or f"{self.args.output_dir}/{PACK}")

    def _settings(self) -> dict[str, Any]:
        frozen = {} if self.method.fix_layer < 0 else {"fix_layer": self.method.fix_layer}
        return {**super()._settings(), "method": self.method.baseline, **frozen}

    def _label(self, model: PreTrainedModel) -> str:
        return self.method.baseline

    def _model(self) -> PreTrainedModel:
        model = self._base_model()
        self.total = sum(
            weight.numel() for name, weight in model.named_parameters() if name not in set(self.task_head)
        )
        self.full_bytes = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        return model

    @property
    def _full(self) -> bool:
        return self.method.baseline == "full"

    def _trainer(self, model: PreTrainedModel) -> Trainer:
        declare_mean_loss(model)  # before the Trainer is made
        task_head, frozen = set(self.task_head), set(self._frozen(model))
        for name, weight in model.named_parameters():
            weight.requires_grad_(name in task_head or (self._full and name not in frozen))
        return self._stock_trainer(model)

    def _save(self, trainer: Trainer) -> None:
        if self._full:
            trainer.save_model()
            return
        model = trainer.model
        task_head = {name: weight for name, weight in model.named_parameters() if name in set(self.task_head)}
        base = Base.of(model, self.task_head)  # the body has not moved
        self._write_pack(
            self._path(), model, SparseDiff({}, {}), base, task_head, "float16", {"method": "last-layer"}
        )

    def _deployed(self, trainer: Trainer) -> Trainer:
        return trainer if self._full else self._stock_trainer(self._packed_model().to(self.args.device))

    def _extra(self) -> dict[str, Any]:
        if not self._full:
            return super()._extra()
        sizes = {"bytes": self.full_bytes, "full_bytes": self.full_bytes}
        return {"diff": {"method": "full", "total": self.total, "density": 1.0, **sizes}}
