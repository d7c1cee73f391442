"""Finetuning with head gates: the system behind `run_dsp.py`, `run_voita.py` and any method like them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, Trainer

from ....options.errors import OptionError
from ....records.history import read_history
from ....records.plan import heads_that_stay
from ...folders.model_heads import is_pruned
from ...heads.confidence import HeadConfidence
from ...heads.gating import gate_heads, load_gating, switchboard_of
from ...heads.schedules import start_of
from ...heads.training import HeadGatesCallback, check_arguments, pruning_optimizers
from ...heads.units import head_map_of
from ...trainer.mean_loss import declare_mean_loss
from ...trainer.updates import training_steps
from ..chassis.models import load
from ..chassis.output_folder import settings_of
from ..chassis.parsing import say
from ..chassis.results import say_heads
from ..chassis.system import Setup, System
from ..chassis.train import read_options
from ..chassis.tuning import TuningArguments, train_and_tune
from .methods import GateArguments, PrunedArguments
from .written import IntermediateMasks, check_prunable, save_pruned_model, write_mask

PRUNED = "pruned"  # the smaller model, in --output_dir
NOTED_MOMENTS = 100  # the heads are noted about so often in a training


def train_heads(
    doc: str, data: type, method: type[GateArguments], argv: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Run the program of a method with learned gates.

    Args:
        doc: its help. data: `GlueArguments` or `SquadArguments`. method: the method's group of options.

    Returns:
        split -> metrics as the Trainer names them, of every scored split; of the tuned model where it is
        tuned.

    Raises:
        ValueError, OSError: options, model, data or folder that cannot be; before training.
    """
    groups = (method, PrunedArguments, TuningArguments)
    setup, (chosen, written, tuning) = read_options(doc, data, groups, argv)
    if tuning.tune_epochs is not None and written.no_pruned:
        raise OptionError("tune_epochs", f"trains output_dir/{PRUNED} on: leave {{}} out", "no_pruned")
    return train_and_tune(HeadGatesSystem(setup, chosen, written), tuning, PRUNED)


class HeadGatesSystem(System):
    """Trains the choice of heads, with the model where it is joint; writes a smaller copy to `pruned`."""

    def __init__(self, setup: Setup, method: GateArguments, written: PrunedArguments):
        super().__init__(setup)
        self.method, self.written = method, written
        self.writes = () if written.no_pruned else (PRUNED,)
        self._new: list[str] = []  # names of the loaded model's weights that are random

    def check(self) -> None:
        super().check()
        if self.setup.args.do_train:
            check_arguments(self.setup.args)

    def method_name(self) -> str:
        return self.method.label()

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), **self.method.settings()}

    def load(self) -> PreTrainedModel:
        """Load the model and put its gates in, unless their schedule hangs on the length of the training."""
        setup, method = self.setup, self.method
        trains, name = setup.args.do_train, setup.model.model_name_or_path
        model, self.tokenizer, self._new = load(setup.model, setup.task)
        if self._new and not (trains and method.joint_pruning):
            why = " and stay random, because without --joint_pruning only the choice of heads is learned"
            self.say_untrained(self._new, why if trains else "")
        if not self.written.no_pruned:
            check_prunable(model, setup.model)
        heads = head_map_of(model)
        if not trains:
            method.adopt(settings_of(name), heads)
        if trains and method.schedule == "auto":
            method.budget(heads)  # a number of heads that cannot be is refused before the data are read
            return model
        self._gate(model)
        if not trains:
            load_gating(model, name)
        return model

    def work_out(self, model: PreTrainedModel, updates: int, noted: Mapping[str, Any]) -> dict[str, Any]:
        """Put in the gates whose schedule hangs on the length of the training."""
        for line in self.method.work_out(model, updates, noted):
            say(line)
        if self.method.schedule == "auto":
            self._gate(model)
        return self.method.worked_out

    def trainer(self, model: PreTrainedModel) -> Trainer:
        setup, method, args = self.setup, self.method, self.setup.args
        options = method.options
        declare_mean_loss(model)  # before the Trainer is made
        model.to(args.device)  # before the optimizer looks at its weights
        more: dict[str, Any] = {}
        every = start = None
        if args.do_train:
            updates = training_steps(args, len(setup.task.train))
            for warning in method.warnings(updates) if setup.is_main else ():
                say(warning)
            rate, joint = options.get("pruning_lr"), method.joint_pruning
            falling = options.get("scores_lr_schedule")
            more["optimizers"] = pruning_optimizers(model, args, updates, rate, joint, falling)
            every = max(1, updates // NOTED_MOMENTS)
            if not setup.results.dry_run:
                data, size = setup.task.train, args.per_device_train_batch_size
                start = start_of(options, model, data, setup.task.collate, size, args.seed)
        confidence = None
        if args.do_train and not setup.results.dry_run and self._reopens(model):
            size = args.per_device_train_batch_size
            confidence = HeadConfidence(model, setup.task.train, setup.task.collate, size, args.seed)
        more["callbacks"] = [HeadGatesCallback(model, every, start, confidence)]
        if self.written.intermediate_masks:
            more["callbacks"].append(IntermediateMasks(model))
        return self.stock_trainer(model, **more)

    @staticmethod
    def _reopens(model: PreTrainedModel) -> bool:
        """Return whether closed gates open again by the confidence of their heads."""
        return getattr(getattr(switchboard_of(model).gates, "rounds", None), "reopening", "") == "reopen"

    def units(self, heads: Mapping[str, Any] | None) -> str:
        if self.method.has_budget:
            return super().units(heads)
        return heads_that_stay(None, heads["total"])

    def label(self, model: PreTrainedModel) -> str:
        return f"pruned-{self.method_name()}" if is_pruned(model) else self.method_name()

    def training_figures(self) -> dict[str, Any]:
        return {"history": read_history(self.setup.args.output_dir), **self.method.figures()}

    def finish(
        self, model: PreTrainedModel, heads: Mapping[str, Any] | None, parameters: Mapping[str, int]
    ) -> None:
        """Write mask.json and the pruned model; print the map of the heads and the method's remarks."""
        folder = self.setup.args.output_dir.rstrip("/") or "/"
        write_mask(f"{folder}/mask.json", model)
        if not self.written.no_pruned:
            save_pruned_model(model, self.tokenizer, f"{folder}/{PRUNED}", parameters["before"])
        say_heads(heads)
        for remark in self.method.remarks(switchboard_of(model).gates):
            say(remark)

    def _gate(self, model: PreTrainedModel) -> None:
        """Put the gates in.

        Raises:
            ValueError: a budget that the model's heads cannot meet; importance of heads in a model that has
                not learned its task yet.
        """
        method, options = self.method, self.method.options
        warmup, important = options["pruning_warmup_updates"], options["init_scores"] == "importance"
        if self._new and method.joint_pruning and important and not warmup and self.setup.args.do_train:
            raise OptionError(
                "init_scores",
                f"importance says nothing before the first update: {', '.join(self._new[:3])} are new and "
                "random. Let the model learn first, by {}, or take random",
                "pruning_warmup_updates",
            )
        gate_heads(model, method.build(head_map_of(model)), warmup)
