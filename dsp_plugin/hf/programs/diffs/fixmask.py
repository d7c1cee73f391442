"""Stage 3 of diff pruning: the kept weights are finetuned, and the task is written as a pack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, Trainer

from ....diffs import DiffPack, FixMaskAdamW
from ....diffs.packs.summary import mask_fingerprint
from ....options.errors import OptionError
from ....options.faults import naming
from ...diffs.training import DiffCallback, fixmask_optimizers
from ..chassis.places import check_written_file
from ..chassis.system import Setup
from ..chassis.train import train_system
from .arguments import DiffOptions
from .stage import PACK, DiffStage, read_stage_options


def run_fixmask(doc: str, data: type, argv: Sequence[str]) -> dict[str, Any]:
    """Run the program of stage 3. Arguments as `read_options`, result as `train_system`."""
    return train_system(FixMaskStage(*read_stage_options(doc, data, argv)))


class FixMaskStage(DiffStage):
    """Finetunes a pack's positions and task head; writes and scores the selected checkpoint's pack.

    Without --do_train the pack of --mask_checkpoint is scored.

    Attributes:
        optimizer: once the Trainer is made, where something is trained.
    """

    def __init__(self, setup: Setup, options: DiffOptions):
        super().__init__(setup, options)
        self.optimizer: FixMaskAdamW | None = None

    def check(self) -> None:
        """Read the pack, too: the settings of the training tell its positions."""
        given, task = self.options.fixmask.mask_checkpoint, self.setup.task.name
        if not given:
            raise OptionError("mask_checkpoint", ": name the pack that the projection wrote")
        super().check()
        if self.setup.args.do_train:
            read = {"mask_checkpoint": given, "model_name_or_path": self.setup.model.model_name_or_path}
            check_written_file("save_pack", self.path, read)
        with naming("mask_checkpoint", given):
            self.pack_path, self.pack = Path(given), DiffPack.load(given)
        theirs = self.pack.config.get("task", task)
        if theirs != task:
            raise OptionError("mask_checkpoint", f"{given} is of {theirs}, not of {task}")

    @property
    def path(self) -> Path:
        """The file of the pack to write."""
        return Path(self.options.fixmask.save_pack or f"{self.setup.args.output_dir}/{PACK}")

    def settings(self) -> dict[str, Any]:
        return {
            **super().settings(),
            "method": self.pack_name(),
            "finetune": self.options.fixmask.finetune,
            "positions": self.pack.count,
            "mask": mask_fingerprint(self.pack.diff),
        }

    def label(self, model: PreTrainedModel) -> str:
        return self.pack_name() + ("" if self.setup.args.do_train else "-scored")

    def load(self) -> PreTrainedModel:
        """Load the base with the pack's task head to train, or with the whole pack to score."""
        if not self.setup.args.do_train:
            return self.load_with_pack()
        model = self.load_base()
        self.check_task_head()
        try:
            undo = self.pack.apply(model)  # checks the base and the task head
        except ValueError as error:
            raise OptionError(
                "mask_checkpoint", f"{self.pack_path} does not fit {{}}: {error}", "model_name_or_path"
            ) from error
        task_head = {name: weight.detach().clone() for name, weight in self.task_head_of(model).items()}
        undo.revert(model)
        for name, weight in task_head.items():
            model.get_parameter(name).data.copy_(weight)
        return model

    def trainer(self, model: PreTrainedModel) -> Trainer:
        args = self.setup.args
        if not args.do_train:
            return self.stock_trainer(model)
        model.to(args.device)
        from_zero = not self.options.fixmask.finetune
        optimizers = fixmask_optimizers(
            model, args, self.pack.diff, task_head=self.task_head, from_zero=from_zero
        )  # the model holds the base now, compared with the pack's in `load`
        self.optimizer = optimizers[0]
        return self.stock_trainer(model, optimizers=optimizers, callbacks=[DiffCallback(self.optimizer)])

    def save(self, trainer: Trainer) -> None:
        model, pack = trainer.model, self.pack
        config = {name: value for name, value in pack.config.items() if name not in ("model_config", "seed")}
        config["finetuned_updates"] = trainer.state.global_step
        dtype, diff = self.options.fixmask.value_dtype, self.optimizer.diff()
        self.write_pack(self.path, model, diff, pack.base, self.task_head_of(model), dtype, config)

    def deployed(self, trainer: Trainer) -> Trainer:
        return self.stock_trainer(self.load_with_pack().to(self.setup.args.device))
