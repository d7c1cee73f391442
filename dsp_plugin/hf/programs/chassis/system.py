"""What a training program trains: plain finetuning here, and what every other system changes of it.

`train.train_system` goes through a system's methods in the order in which they stand in `System`. Head gates,
the stages of diff pruning and what comes after them are siblings: each a subclass in its own folder, of which
nothing is known here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedModel, Trainer, TrainingArguments

from ....records.kept_heads import has_lost, kept_in_words, mask_of
from ....records.plan import heads_that_stay
from ....records.record import portable_path
from ...folders.model_heads import heads_of, is_pruned
from ...trainer.epoch_order import EpochOrder
from ...trainer.in_order import InOrderTrainer
from ...trainer.mean_loss import declare_mean_loss
from .arguments import ClmArguments, GlueArguments, ModelArguments, ResultArguments, SquadArguments
from .clm_task import ClmTask
from .data_task import DataTask
from .glue_task import GlueTask
from .models import load, say_open_heads
from .output_folder import training_settings
from .parsing import say
from .results import say_heads
from .squad_task import SquadTask

TASKS = {GlueArguments: GlueTask, SquadArguments: SquadTask, ClmArguments: ClmTask}


@dataclass
class Setup:
    """The typed options of one run, and the task that they name.

    Attributes:
        task: made of `data`; its data sets are empty until they are read.
    """

    model: ModelArguments
    data: GlueArguments | SquadArguments | ClmArguments
    results: ResultArguments
    args: TrainingArguments
    task: DataTask = field(init=False)

    def __post_init__(self) -> None:
        self.task = TASKS[type(self.data)](self.data, self.model.cache_dir)

    def within(self, folder: str) -> Setup:
        """Return these options with results in a folder of --output_dir, records in the one of --record_dir.

        The `TrainingArguments` are a copy, because a Trainer and an optimizer write into theirs.
        """
        args, record_dir = copy.copy(self.args), self.results.record_dir
        args.output_dir = f"{args.output_dir}/{folder}".rstrip("/")
        record_dir = f"{record_dir}/{folder}".rstrip("/") if record_dir else record_dir
        return Setup(self.model, self.data, replace(self.results, record_dir=record_dir), args)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.args.process_index == 0

    @property
    def model_name(self) -> str:
        """The model's folder or name, as records have it."""
        return portable_path(self.model.source)


class System:
    """Plain finetuning: every weight learns, and the model is scored as it is after training.

    Attributes:
        writes: folders within --output_dir that the run writes models to.
        parts: folders within it with trainings that go on from this one's model, in the same command: where
            it is trained anew, they are removed.
        trainer_class: of the Trainers that `stock_trainer` makes.
        checkpoint: that the training goes on from, once it is known; None where it begins.
        tokenizer: once `load` was called.
    """

    writes: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    trainer_class: type[Trainer] = InOrderTrainer

    def __init__(self, setup: Setup):
        self.setup = setup
        self.checkpoint: str | None = None
        self.tokenizer: Any = None

    def check(self) -> None:
        """Raise a ValueError or OSError for options or files that cannot be, before anything is loaded."""
        args = self.setup.args
        if not (args.do_train or args.do_eval or args.do_predict):
            raise ValueError("nothing to do: give --do_train, --do_eval or --do_predict")
        self.setup.model.check_source(args.do_train)

    def settings(self) -> dict[str, Any]:
        """Return what must not change between the start of a training and its resume, as JSON takes it."""
        setup = self.setup
        return {
            "method": self.method_name(),
            "model": setup.model_name,
            "seed": setup.args.seed,
            **setup.task.settings(),
            **training_settings(setup.args),
        }

    def method_name(self) -> str:
        """Return the method's name in the settings, and in the records of a model that had all its heads."""
        return "unpruned"

    def load(self) -> PreTrainedModel:
        """Load the model to train, or to score where nothing is trained, and its tokenizer."""
        setup = self.setup
        model, self.tokenizer, new = load(setup.model, setup.task)
        if new and not setup.args.do_train:
            self.say_untrained(new)
        if setup.model.model_name_or_path:
            say_open_heads(setup.model.model_name_or_path)
        return model

    def stored(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return what a checkpoint of the model in training holds."""
        return model

    def say_untrained(self, new: list[str], why: str = "") -> None:
        """Tell the user that weights are new, and stay random."""
        name = self.setup.model.model_name_or_path
        say(
            f"{name} IS NO TRAINED MODEL OF {self.setup.task.name}: {', '.join(new[:3])} are new{why}. "
            "Finetune it first."
        )

    def work_out(self, model: PreTrainedModel, updates: int, noted: Mapping[str, Any]) -> dict[str, Any]:
        """Work out what hangs on the length of the training, data being read, and say it.

        Args:
            updates: of the whole training.
            noted: what was worked out where a training goes on, which holds; else empty.

        Returns:
            what is to be noted beside the settings, as JSON takes it.

        Raises:
            ValueError: the training is too short.
        """
        return {}

    def trainer(self, model: PreTrainedModel) -> Trainer:
        """Make the Trainer of the loaded model, data being read: its optimizers, its callbacks."""
        return self.stock_trainer(model)

    def stock_trainer(self, model: PreTrainedModel, **more: Any) -> Trainer:
        """Make a Trainer of the task's data; `more` goes to it.

        Args:
            more: `callbacks` are `EpochOrder`s, one at least.
        """
        args, task = self.setup.args, self.setup.task
        declare_mean_loss(model)  # before the Trainer is made; of a model that is scored alone, too
        more.setdefault("callbacks", [EpochOrder()])
        more.setdefault("preprocess_logits_for_metrics", task.reduce_logits)
        scored = next(iter(task.dev), None)  # during training MNLI's matched set, as in the stock program
        return self.trainer_class(
            model=model,
            args=args,
            train_dataset=task.train,
            eval_dataset=None if scored is None else task.dev[scored],
            compute_metrics=None if scored is None else task.compute_metrics(scored),
            data_collator=task.collate,
            processing_class=self.tokenizer,
            **more,
        )

    def heads(self, model: PreTrainedModel) -> dict[str, Any] | None:
        """Return the heads of the model in training, as a record has them."""
        return heads_of(model)

    def units(self, heads: Mapping[str, Any] | None) -> str:
        """Say for `--dry_run` how many heads, and groups of neurons, stay; `heads` as in a record."""
        if heads is None:
            return "heads: not known"
        if "groups" in heads:
            return f"units that stay: {kept_in_words(heads, mask_of(heads))}"
        return heads_that_stay(heads["kept"], heads["total"])

    def label(self, model: PreTrainedModel) -> str:
        """Return the method's name in the records of the loaded model."""
        if not is_pruned(model):
            return self.method_name()
        return "pruned-tuned" if self.setup.args.do_train else "pruned"

    def save(self, trainer: Trainer) -> None:
        """Write what was trained."""
        trainer.save_model()

    def deployed(self, trainer: Trainer) -> Trainer:
        """Return a Trainer of the model that is scored after training."""
        return trainer

    def figures(self) -> dict[str, Any]:
        """Return more fields for every record."""
        return {}

    def training_figures(self) -> dict[str, Any]:
        """Return more fields for the record of the training: `history` of the kept heads."""
        return {"history": []}

    def finish(
        self, model: PreTrainedModel, heads: Mapping[str, Any] | None, parameters: Mapping[str, int]
    ) -> None:
        """Write, beside the records, what else comes of the run, and print it; called in one process.

        Args:
            heads, parameters: as in a record.
        """
        if heads is not None and has_lost(heads):
            say_heads(heads)
