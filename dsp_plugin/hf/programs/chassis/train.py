"""One program for finetuning with and without pruning, on GLUE and on SQuAD: parse, build, train, score,
record.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, Trainer, TrainingArguments, set_seed
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import enable_full_determinism
from transformers.utils import logging as hf_logging

from ....records.files.claim import claimed
from ....records.files.sealed_folder import seal_folder
from ....records.files.whole import check_folder
from ....records.history import read_history
from ....records.record import Metric, portable_path
from ...data.input_limits import check_inputs
from ...heads.gating import gate_heads, load_gating, switchboard_of
from ...heads.layouts.locate import head_map_of
from ...heads.surgery.kept_heads import record_of
from ...heads.training import (
    HeadGatesCallback,
    check_arguments,
    declare_mean_loss,
    pruning_optimizers,
    training_steps,
)
from ...trainer.epoch_order import EpochOrder
from ...trainer.in_order import InOrderTrainer
from ..heads.methods import Method
from .arguments import GlueArguments, ModelArguments, ResultArguments, SquadArguments
from .dry_run import plan_lines
from .glue_work import GlueWork
from .identity import identity_of
from .models import check_prunable, heads_of, load, say_open_heads
from .origin import check_checkpoint, check_lengths
from .output_folder import (
    STATE,
    NotedSettings,
    begin,
    settings_of,
    starting_point,
    training_settings,
    updates_of,
)
from .parsing import parse, say
from .places import check_model_folder, check_space
from .results import IntermediateMasks, Records, parameters_of, save_pruned_model, say_heads, write_mask
from .squad_work import SquadWork
from .trainer_checks import check_trainer

Work = GlueWork | SquadWork
WORK = {GlueArguments: GlueWork, SquadArguments: SquadWork}
NOTED_MOMENTS = 100  # the heads are noted about so often in a training


def train(doc: str, data: type, method: type[Method], argv: Sequence[str]) -> dict[str, Any]:
    """The whole of a program that trains.

    Args:
        doc: its help.
        data: the group of options of the data, `GlueArguments` or `SquadArguments`.
        method: the group of options of the method; `Method` for plain finetuning.

    Returns:
        split -> metrics as the Trainer names them, of every scored split.

    Raises:
        ValueError, OSError: options, model, data or folder that cannot be; before training.
    """
    own = [] if method is Method else [method]
    parsed = parse(doc, [ModelArguments, data, *own, ResultArguments, TrainingArguments], argv)
    model_options, data_options, results, args = parsed[0], parsed[1], parsed[-2], parsed[-1]
    chosen = parsed[2] if own else Method()
    log_levels(args)
    if not (args.do_train or args.do_eval or args.do_predict):
        raise ValueError("nothing to do: give --do_train, --do_eval or --do_predict")
    if not args.output_dir:
        raise ValueError("--output_dir: name a folder for the results")
    chosen.check()
    return Run(chosen, WORK[data](data_options, model_options.cache_dir), model_options, results, args).go()


class Run:
    """One start of a program. The steps are methods in their order."""

    finished = False  # whether the training was over before
    scratch = ""  # where a dry run writes what nobody keeps

    def __init__(
        self,
        method: Method,
        work: Work,
        options: ModelArguments,
        results: ResultArguments,
        args: TrainingArguments,
    ):
        self.method, self.work, self.options, self.results, self.args = method, work, options, results, args
        self.main = args.process_index == 0

    def go(self) -> dict[str, Any]:
        self._check_places()
        if self.results.record_dir:
            check_folder("--record_dir", self.results.record_dir)
        if self.results.dry_run:
            if not self.args.do_train:
                raise ValueError("--dry_run says what a training would be: give --do_train")
            with tempfile.TemporaryDirectory() as self.scratch:
                return self._go()
        with claimed("--output_dir", self.args.output_dir) if self.main else contextlib.nullcontext():
            return self._go()

    def _go(self) -> dict[str, Any]:
        args, work = self.args, self.work
        enable_full_determinism(args.seed) if args.full_determinism else set_seed(args.seed)
        overwrite = self.results.overwrite_output_dir
        # before the optimizers are made, which may take the clipping upon themselves
        settings = self._settings()
        if args.do_train:
            settings.update(identity_of(self.options), train_data=work.train_fingerprint())
        checkpoint = starting_point(args, settings, overwrite) if args.do_train else None
        if self.results.dry_run:
            args.output_dir = self.scratch
        model = self._model()
        check_lengths(model, self.tokenizer, work)
        if checkpoint is not None:
            check_checkpoint(checkpoint, model)
        work.read(args.do_train, args.do_eval or args.eval_strategy != "no", args.do_predict)
        work.tokenise(self.tokenizer)
        wanted = training_steps(args, len(work.train)) if args.do_train else 0
        for data in filter(None, [work.train, *work.dev.values(), *work.test.values()]):
            check_inputs(data, model, self.options.tokenizer_name or self.options.model_name_or_path)
        trainer = self._trainer(model)
        if args.do_train:
            trainer.add_callback(NotedSettings(settings))
            check_space(args.output_dir, model, args)
        if self.results.dry_run:
            return self._say_plan(trainer, wanted, 0 if checkpoint is None else updates_of(checkpoint))
        self.label = self.results.method or self._label(model)
        updates = seconds = None
        if args.do_train:
            if self.main:
                begin(args, settings, checkpoint, overwrite)
            if checkpoint is not None and updates_of(checkpoint) >= wanted:
                # nothing is left to do; where the end is inside an epoch, the Trainer would make one more
                # update
                self.finished, args.max_steps, args.num_train_epochs = True, -1, 0
            started = time.time()
            output = trainer.train(resume_from_checkpoint=checkpoint)
            seconds, updates = time.time() - started, trainer.state.global_step
            if self.finished:  # the state tells of the training, not of this start without one
                done = TrainerState.load_from_json(str(Path(checkpoint) / STATE))
                trainer.state.max_steps, trainer.state.num_train_epochs = (
                    done.max_steps,
                    done.num_train_epochs,
                )
            if args.load_best_model_at_end and trainer.state.best_model_checkpoint is None:
                say(
                    "--load_best_model_at_end: no checkpoint was scored that could be the best, and the "
                    "model is the last one"
                )
            self._save(trainer)
            trainer.save_state()
            if self.main and (Path(args.output_dir) / "config.json").is_file():
                seal_folder(args.output_dir)
            trainer.save_metrics("train", output.metrics)
            trainer = self._deployed(trainer)
            model = trainer.model
        scores = self._score(trainer) if args.do_eval else {}
        if args.do_predict:
            self._predict(trainer)
        if self.main:
            self._report(model, scores, updates, seconds, checkpoint)
        return {split: metrics for split, (metrics, _) in scores.items()}

    def _say_plan(self, trainer: Trainer, updates: int, done: int) -> dict[str, Any]:
        heads = heads_of(trainer.model)
        free = self.method.gated and not self.method.has_budget
        stay = "as many as the penalty leaves" if free else None if heads is None else heads["kept"]
        units = "heads: not known" if heads is None else f"heads that stay: {stay} of {heads['total']}"
        for line in plan_lines(trainer, updates, units, done):
            say(line)
        return {}

    def _check_places(self) -> None:
        """Raises: ValueError: the run would write over what it reads."""
        writes = ("pruned",) if self.method.gated and not self.results.no_pruned else ()
        check_model_folder(self.options.model_name_or_path, self.args.output_dir, self.args.do_train, writes)
        if self.results.record_dir:
            check_folder("--record_dir", self.results.record_dir)
        check_trainer(self.args, self.work)
        if self.method.gated and self.args.do_train:
            check_arguments(self.args)

    def _save(self, trainer: Trainer) -> None:
        """Write what was trained."""
        trainer.save_model()

    def _deployed(self, trainer: Trainer) -> Trainer:
        """A Trainer of the model that is scored after training."""
        return trainer

    def _extra(self) -> dict[str, Any]:
        """More for every record."""
        return {}

    def _settings(self) -> dict[str, Any]:
        method = vars(self.method) if self.method.gated else {}
        model = portable_path(self.options.model_name_or_path.rstrip("/"))
        own = {
            "method": self.method.label(),
            "model": model,
            "seed": self.args.seed,
            **self.work.settings(),
            **method,
        }
        return {**own, **training_settings(self.args)}

    def _model(self) -> PreTrainedModel:
        """The model with its gates; sets `tokenizer`."""
        options, method, work = self.options, self.method, self.work
        model, self.tokenizer, new = load(options, work)
        trains = self.args.do_train
        if new and not (trains and method.joint):
            say(
                f"{options.model_name_or_path} IS NO TRAINED MODEL OF {work.name}: {', '.join(new[:3])} are "
                "new"
                + (
                    " and stay random, because without --joint_pruning only the choice of heads is learned"
                    if trains
                    else ""
                )
                + ". Finetune it first."
            )
        if not method.gated:
            say_open_heads(options.model_name_or_path)
            return model
        if not self.results.no_pruned:
            check_prunable(model, options)
        if not trains:
            method.adopt(settings_of(options.model_name_or_path))
        gate_heads(model, method.build(head_map_of(model)), method.pruning_warmup_updates)
        if not trains:
            load_gating(model, options.model_name_or_path)
        return model

    def _trainer(self, model: PreTrainedModel) -> Trainer:
        args, method, work = self.args, self.method, self.work
        more: dict[str, Any] = {}
        declare_mean_loss(model)  # before the Trainer is made
        if method.gated:
            model.to(args.device)  # before the optimizer looks at its weights
            every = None
            if args.do_train:
                updates = training_steps(args, len(work.train))
                for warning in method.warnings(updates) if self.main else ():
                    say(warning)
                more["optimizers"] = pruning_optimizers(model, args, updates, method.pruning_lr, method.joint)
                every = max(1, updates // NOTED_MOMENTS)
            more["callbacks"] = [HeadGatesCallback(model, every)]
            if self.results.intermediate_masks:
                more["callbacks"].append(IntermediateMasks(model))
        return self._stock_trainer(model, **more)

    def _stock_trainer(self, model: PreTrainedModel, **more: Any) -> Trainer:
        args, work = self.args, self.work
        more.setdefault("callbacks", [EpochOrder()])  # those of gates and diffs are such, too
        scored = next(iter(work.dev), None)  # during training MNLI's matched set, as in the stock program
        return InOrderTrainer(
            model=model,
            args=args,
            train_dataset=work.train,
            eval_dataset=None if scored is None else work.dev[scored],
            compute_metrics=None if scored is None else work.compute_metrics(scored),
            data_collator=work.collate,
            processing_class=self.tokenizer,
            **more,
        )

    def _label(self, model: PreTrainedModel) -> str:
        label = self.method.label()
        if record_of(model) is None:
            return label
        return f"pruned-{label}" if self.method.gated else "pruned-tuned" if self.args.do_train else "pruned"

    def _score(self, trainer: Trainer) -> dict[str, Any]:
        """split -> (metrics as the Trainer names them, seconds)"""
        found = {}
        for split, data in self.work.dev.items():
            trainer.compute_metrics = self.work.compute_metrics(split)
            started = time.time()
            output = trainer.predict(data, metric_key_prefix="eval")
            seconds = time.time() - started
            suffix = self.work.suffix(split)
            metrics = {f"{name}{suffix}": value for name, value in output.metrics.items()}
            found[split] = (metrics, seconds)
            trainer.log_metrics(f"eval{suffix}", metrics)
            trainer.save_metrics(f"eval{suffix}", metrics)
            if self.main:
                self.work.write_dev(self.args.output_dir, split, output.predictions)
        return found

    def _predict(self, trainer: Trainer) -> None:
        trainer.compute_metrics = None
        if not self.work.test and not self.args.do_eval:  # SQuAD: the scored set is the one to answer
            for split, data in self.work.dev.items():
                output = trainer.predict(data)
                if self.main:
                    self.work.write_dev(self.args.output_dir, split, output.predictions)
        for split, data in self.work.test.items():
            output = trainer.predict(data)
            if self.main:
                for name in self.work.write_test(self.args.output_dir, split, output.predictions):
                    say(f"predictions: {self.args.output_dir}/{name}")

    def _report(
        self,
        model: PreTrainedModel,
        scores: dict[str, Any],
        updates: int | None,
        seconds: float | None,
        checkpoint: str | None,
    ) -> None:
        args, work, folder = self.args, self.work, self.args.output_dir.rstrip("/") or "/"
        heads, parameters = heads_of(model), parameters_of(model)
        records = Records(
            work.kind,
            self.results.record_dir or folder,
            name=self.results.record_name or work.name,
            method=self.label,
            device=args.device,
            seed=args.seed,
            data=work.data_fingerprint(),
            heads=heads,
            parameters=parameters,
        )
        more = {
            "model": self.options.model_name_or_path.rstrip("/").split("/")[-1],
            "main_metric": work.main_metric,
        }
        more.update(self._extra())
        # the record of a training that was over before says how long it took
        if updates is not None and not (self.finished and Path(records.folder, "results.json").is_file()):
            extra = {
                **more,
                "history": read_history(folder) if self.method.gated else [],
                "resumed": checkpoint is not None,
            }
            extra["train_examples"] = len(work.train)
            records.training(seconds, updates, extra)
        for split, (metrics, took) in scores.items():
            records.scoring(
                split, _metrics(work, split, metrics), took, {**more, "examples": len(work.dev[split])}
            )
        if self.method.gated:
            write_mask(f"{folder}/mask.json", model)
            if not self.results.no_pruned:
                save_pruned_model(model, self.tokenizer, f"{folder}/pruned", parameters["before"])
        if heads is not None and (heads["kept"] < heads["total"] or self.method.gated):
            say_heads(heads)
        if self.method.gated:
            for remark in self.method.remarks(switchboard_of(model).gates):
                say(remark)
        for split, (metrics, _) in scores.items():
            for metric in _metrics(work, split, metrics):
                say(f"{metric.name} on {metric.subset}: {metric.value:.2f} {metric.unit}")
        say(f"records: {records.folder}")


def _metrics(work: Work, split: str, metrics: dict[str, float]) -> list[Metric]:
    """The task's own metrics, in percent, without those of speed and loss."""
    suffix = work.suffix(split)
    found = [(name, metrics.get(f"eval_{name}{suffix}")) for name in work.metrics]
    return [
        Metric(name, work.scale * value, unit="%", subset=work.subset(split))
        for name, value in found
        if value is not None
    ]


def log_levels(args: TrainingArguments) -> None:
    """The Trainer's own messages as `--log_level` asks; our data readers' warnings always."""
    ours = logging.getLogger("dsp_plugin")
    # none for all loggers: the hub's and datasets' have their own, and would print twice
    if not ours.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s | %(message)s"))
        ours.addHandler(handler)
    if args.device.type == "cpu":
        # the Trainer's default, which torch warns of where there is no GPU
        args.dataloader_pin_memory = False
        if args.fp16:
            say(
                "--fp16 is for GPUs: here is none, and this run is in single precision (--bf16 --use_cpu "
                "works on a CPU)"
            )
    if args.log_level == "passive":
        hf_logging.set_verbosity_warning()
    else:
        hf_logging.set_verbosity(args.get_process_log_level())
