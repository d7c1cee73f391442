"""Stage 3 of diff pruning: the kept weights are finetuned, and the task is written as a pack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, Trainer

from ....diffs import DiffPack
from ....diffs.packs.summary import mask_fingerprint
from ....options.faults import naming
from ...diffs.training import DiffCallback, fixmask_optimizers
from ..chassis.places import check_written_file
from .run import PACK, DiffRun


class FixMaskRun(DiffRun):
    """Finetunes a pack's positions and its task head; writes and scores the pack of the selected checkpoint,
    reloaded.

    Without --do_train the pack of --mask_checkpoint is scored.
    """

    def prepare(self) -> None:
        path = self.fixmask.mask_checkpoint
        if not path:
            raise ValueError("--mask_checkpoint: name the pack that the projection wrote")
        args = self.args
        if not (args.do_train or args.do_eval or args.do_predict):
            raise ValueError("nothing to do: give --do_train, --do_eval or --do_predict")
        if args.do_train:
            read = {"--mask_checkpoint": path, "--model_name_or_path": self.options.model_name_or_path}
            check_written_file("--save_pack", self._path(), read)
        with naming(f"--mask_checkpoint {path}"):
            self._use_pack(Path(path), DiffPack.load(path))
        task = self.pack.config.get("task", self.work.name)
        if task != self.work.name:
            raise ValueError(f"--mask_checkpoint {path} is of {task}, not of {self.work.name}")

    def _path(self) -> Path:
        """Of the pack to write."""
        return Path(self.fixmask.save_pack or f"{self.args.output_dir}/{PACK}")

    def _settings(self) -> dict[str, Any]:
        ours = {
            "method": self._method_name(),
            "finetune": self.fixmask.finetune,
            "positions": self.pack.count,
        }
        return {**super()._settings(), **ours, "mask": mask_fingerprint(self.pack.diff)}

    def _label(self, model: PreTrainedModel) -> str:
        return self._method_name() + ("" if self.args.do_train else "-scored")

    def _model(self) -> PreTrainedModel:
        if not self.args.do_train:
            return self._packed_model()
        model = self._base_model()
        self._check_head()
        try:
            undo = self.pack.apply(model)  # checks the base and the task head
        except ValueError as error:
            raise ValueError(
                f"--mask_checkpoint {self.pack_path} does not fit --model_name_or_path: {error}"
            ) from error
        task_head = {
            name: tensor.detach().clone()
            for name, tensor in model.named_parameters()
            if name in self.task_head
        }
        undo.revert(model)
        state = dict(model.named_parameters())
        for name, tensor in task_head.items():
            state[name].data.copy_(tensor)
        return model

    def _trainer(self, model: PreTrainedModel) -> Trainer:
        if not self.args.do_train:
            return self._stock_trainer(model)
        model.to(self.args.device)
        optimizers = fixmask_optimizers(
            model, self.args, self.pack.diff, task_head=self.task_head, from_zero=not self.fixmask.finetune
        )  # the model holds the base now, compared with the pack's in `_model`
        self.optimizer = optimizers[0]
        return self._stock_trainer(model, optimizers=optimizers, callbacks=[DiffCallback(self.optimizer)])

    def _save(self, trainer: Trainer) -> None:
        model = trainer.model
        task_head = {name: tensor for name, tensor in model.named_parameters() if name in set(self.task_head)}
        told = {
            name: value for name, value in self.pack.config.items() if name not in ("model_config", "seed")
        }
        told["finetuned_updates"] = trainer.state.global_step
        self._write_pack(
            self._path(),
            model,
            self.optimizer.diff(),
            self.pack.base,
            task_head,
            self.fixmask.value_dtype,
            told,
        )

    def _deployed(self, trainer: Trainer) -> Trainer:
        return self._stock_trainer(self._packed_model().to(self.args.device))
