"""One stage of Delta-Tuning: methods are trained beside a frozen model, on what earlier stages have left."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel, Trainer

from ....delta.artefact import DeltaFile
from ....delta.templates import source_without_prompt
from ....options.errors import OptionError
from ....options.faults import naming
from ....records.files.whole import check_output
from ....records.record import fingerprint
from ...delta import DeltaTrainer, add_delta, delta_account, delta_of, has_delta, load_delta, save_delta
from ...delta.checkpoints import FILE, carrier_of
from ...delta.prompt_data import DemonstrationDataset, NewDraws
from ...delta.prompting import PromptingModel, check_masked_lm
from ...trainer.epoch_order import EpochOrder
from ..chassis.models import load
from ..chassis.parsing import say
from ..chassis.system import Setup, System
from ..dsee.trained_dense import dense_names
from .arguments import DeltaArguments, our_names
from .labels import label_of
from .task import DeltaTask
from .whole_trainer import WholeTrainer

BEGUN_ON = "begun_on"


class DeltaStage(System):
    """Trains the methods of one stage; what is scored is the file, read back onto the base.

    Args:
        methods: of this stage; none to train all weights, or to score what `start` has.
        number: of the stage, from 1. start: a file to begin with, or to score. of_stages: of the command.
        later: the methods of the stages that follow.

    Attributes:
        account: of the file that is scored, once there is one.
    """

    def __init__(
        self,
        setup: Setup,
        options: DeltaArguments,
        methods: tuple[str, ...] = (),
        number: int = 1,
        start: Path | None = None,
        of_stages: int = 1,
        later: Sequence[tuple[str, ...]] = (),
    ):
        super().__init__(setup)
        self.options, self.methods, self.number = options, methods, number
        self.start_path, self.of_stages, self.later = start, of_stages, later
        self.start: DeltaFile | None = None
        self.account: dict[str, Any] = {}
        self.new: list[str] = []
        self.dense: list[str] | None = None
        self.trainer_class = DeltaTrainer if methods else WholeTrainer
        self.task: DeltaTask = setup.task
        self.task.seed = setup.args.seed

    @property
    def path(self) -> Path:
        """The file that the stage ends with."""
        return Path(self.setup.args.output_dir, FILE)

    def check(self) -> None:
        """Raise as `System.check`, and for files and options that do not go with deltas."""
        super().check()
        args = self.setup.args
        if not self.setup.model.model_name_or_path:
            raise OptionError("model_name_or_path", "is missing")
        for name in ("deepspeed", "fsdp") if self.methods else ():
            if getattr(args, name):
                raise OptionError(name, "does not go with deltas, which are small: leave it out")
        if args.do_train and self.methods:
            check_output("output_dir", self.path)
        if self.start_path is not None:
            with naming("delta_checkpoint", self.start_path):
                self.start = DeltaFile.load(self.start_path)
            self._check_start()
        earlier = {*self.start.parts} if self.start is not None else set()
        self.task.soft_prompt = "prompt" in {*self.methods, *earlier}
        if self.task.labelled_tests and args.do_predict:
            args.do_eval = True  # they are scored as the development set is
        if self.task.prompted and self.task.template.has_prompt is not self.task.soft_prompt:
            if self.task.soft_prompt:
                reason = f"{self.task.template.source!r} has no *prompt*, where the vectors of prompt stand"
                raise OptionError("template", reason)
            say("*prompt* in the template stands for nothing: the method prompt is not there")

    def _check_start(self) -> None:
        """Raise an OptionError where a file was trained with another head, template or mapping.

        Training may move it to another task, which has others; on the same one it goes on with its own, where
        a soft prompt's place may be added.
        """
        task, start, path = self.task, self.start, self.start_path
        theirs, kind = start.config.get("task"), start.config.get("few_shot_type")
        if kind is not None and (kind != "finetune") is not task.prompted:
            raise OptionError("delta_checkpoint", f"{path} is of {{}} {kind}", "few_shot_type")
        training = self.setup.args.do_train
        if theirs not in (None, task.name) and not training:
            raise OptionError("delta_checkpoint", f"{path} is of {theirs}, not of {task.name}")
        if not task.prompted or (training and theirs != task.name):
            return
        with naming("delta_checkpoint", path):
            if training:
                before = replace(start, template=source_without_prompt(start.template or ""))
                before.check_template(task.template.without_prompt().source, task.mapping)
            else:
                task.soft_prompt = "prompt" in start.parts
                start.check_template(task.used_template.source, task.mapping)

    def settings(self) -> dict[str, Any]:
        found = {**super().settings(), "stage": self.number, "training_params": list(self.methods)}
        if self.methods:
            found |= self.options.of_methods(self.task.options.prompt_num)
        if self.start_path is not None:
            found["start"] = fingerprint([self.start_path])
        return found

    def load(self) -> PreTrainedModel:
        model = self.load_base()
        if self.start is not None:
            with naming("delta_checkpoint", self.start_path):
                load_delta(model, self.start)
        if self.methods and self.setup.args.do_train:
            self._rehearse(model)
            self.add_methods(model, self.methods)
        elif self.start is not None:
            self.note_account(model, self.start_path)
        return self.wrapped(model)

    def load_base(self) -> PreTrainedModel:
        """Load the base anew; sets `tokenizer`.

        Raises:
            OptionError: it lacks the masked-LM head, which would be random; label words of several tokens.
        """
        model, self.tokenizer, new = load(self.setup.model, self.task)
        self.new = new
        if self.task.prompted:
            check_masked_lm(model)
            if new:
                reason = f"{self.setup.model.source} lacks {new[0]}, so its masked-LM head would be random: "
                reason += "scripts/delta/pretrain_mlm.py trains one, or take {} finetune"
                raise OptionError("model_name_or_path", reason, "few_shot_type")
        elif new and not self.setup.args.do_train and self.start is None:
            self.say_untrained(new)
        self.task.prepare(model, self.tokenizer)
        return model

    def _rehearse(self, model: PreTrainedModel) -> None:
        """Put this stage's methods and the later ones' into a copy: what a later one refuses is known now."""
        if self.number > 1 or not self.later:
            return
        tried = copy.deepcopy(model)
        for methods in (self.methods, *self.later):
            self.add_methods(tried, methods, sparse_method="rp")  # the places of S2 are found in their turn

    def add_methods(self, model: PreTrainedModel, methods: tuple[str, ...], **more: Any) -> None:
        """Put a stage's methods into the model, or go on with those of the file's last stage."""
        if has_delta(model):
            state = delta_of(model)
            last = {method for method, stage in state.stages.items() if stage == state.stage}
            if last == {*methods}:
                return
            dense = state.task_head  # of the first stage: a pooler that has learnt since stays in it
        else:
            dense = [] if self.task.prompted else self.dense_names(model)
        given = {**self.options.of_methods(self.task.options.prompt_num), **more}
        with our_names(), naming("training_params", ",".join(methods)):
            add_delta(model, methods, **given, seed=self.setup.args.seed, task_head=dense)

    def dense_names(self, model: PreTrainedModel) -> list[str]:
        """Return what is trained dense of a bare base, and say so once."""
        if self.dense is None:
            self.dense = dense_names(model, self.new, self.setup.model.source)
        return self.dense

    def wrapped(self, model: PreTrainedModel) -> nn.Module:
        """Return the model, or with prompts the one that answers with label words."""
        if not self.task.prompted:
            return model
        return PromptingModel(model, self.task.words, self.task.definition.is_regression)

    def stored(self, model: nn.Module) -> PreTrainedModel:
        return model.model if isinstance(model, PromptingModel) else model

    def trainer(self, model: PreTrainedModel) -> Trainer:
        made = self.stock_trainer(model, callbacks=self._callbacks())
        if isinstance(made, DeltaTrainer):
            made.about = self.about()
        return made

    def _callbacks(self) -> list[Any]:
        data = self.task.train
        return [EpochOrder(), *([NewDraws(data)] if isinstance(data, DemonstrationDataset) else [])]

    def about(self) -> dict[str, Any]:
        """Return what the file says beside the methods."""
        task, config = self.task, {"task": self.task.name, "few_shot_type": self.task.options.few_shot_type}
        if (begun := self._begun_on()) is not None:
            config[BEGUN_ON] = begun
        if not task.prompted:
            return {"config": config}
        return {"template": task.used_template.source, "mapping": task.mapping, "config": config}

    def method_name(self) -> str:
        begun = self._begun_on()
        label = label_of(self._stages(), self.task.options.few_shot_type)
        return label if begun is None else f"{label}-from-{begun}"

    def _begun_on(self) -> str | None:
        """Name the other task that the first stage began with the file of; None where there is none."""
        config = {} if self.start is None else self.start.config
        theirs = config.get("task", self.task.name)
        return config.get(BEGUN_ON) if theirs == self.task.name else theirs

    def _stages(self) -> list[list[str]]:
        """The methods of each stage up to this one; empty where all weights learn, or nothing has."""
        found: dict[int, list[str]] = {}
        for method, part in self.start.parts.items() if self.start is not None else ():
            found.setdefault(part.stage, []).append(method)
        stages = [found[number] for number in sorted(found)]
        if self.methods and not (stages and {*stages[-1]} == {*self.methods}):
            stages.append(list(self.methods))
        return stages

    def label(self, model: PreTrainedModel) -> str:
        if not self._stages():
            kind = self.task.options.few_shot_type
            return label_of([["full" if self.setup.args.do_train else "none"]], kind)
        return self.method_name()

    def heads(self, model: PreTrainedModel) -> dict[str, Any] | None:
        return None

    def save(self, trainer: Trainer) -> None:
        if not self.methods:
            trainer.save_model()
            return
        with self.setup.args.main_process_first(desc="writing the deltas"):
            if self.setup.is_main:
                size = save_delta(carrier_of(trainer.model), self.path, **self.about())
                say(f"deltas: {self.path}, {size:,} bytes")
        if self.setup.is_main:
            trainer.processing_class.save_pretrained(self.setup.args.output_dir)

    def deployed(self, trainer: Trainer) -> Trainer:
        """Read the file back onto the base loaded anew, and score that."""
        if not self.methods:
            return trainer
        model = self.load_base()
        model.to(self.setup.args.device)
        with naming("output_dir", self.path):
            load_delta(model, self.path)
        self.note_account(model, self.path)
        return self.stock_trainer(self.wrapped(model))

    def note_account(self, model: PreTrainedModel, path: Path) -> None:
        """Keep what the records say of the methods."""
        self.account = {**delta_account(model), "bytes": Path(path).stat().st_size}

    def figures(self) -> dict[str, Any]:
        task, args = self.task, self.setup.args
        found = {
            "few_shot_type": task.options.few_shot_type,
            "stages": self._stages(),
            "of_stages": len(self._stages()) - self.number + self.of_stages,
            "num_k": task.options.num_k,
            "learning_rate": args.learning_rate if args.do_train else None,
            "tag": self.options.tag,
            BEGUN_ON: self._begun_on(),
            **self.account,
        }
        if task.prompted:
            found |= {"template": task.used_template.source, "mapping": task.mapping}
        return {"delta": found}

    def finish(
        self, model: PreTrainedModel, heads: Mapping[str, Any] | None, parameters: Mapping[str, int]
    ) -> None:
        if not self.account:
            return
        found = self.account
        trained = found["added"] + found["task_head"]
        say(
            f"stage {self.number}: {trained:,} numbers beside the base's {found['base']:,} "
            f"({100 * trained / found['base']:.3f} %), {found['bytes']:,} bytes"
        )
