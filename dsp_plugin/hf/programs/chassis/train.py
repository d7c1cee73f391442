"""One training program for every system, on GLUE, SQuAD and text: parse, build, train, score, record.

What is trained is a `System`; here is what all of them share. The chassis knows nothing of gates or diffs.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, Trainer, TrainingArguments, set_seed
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import enable_full_determinism

from ....options.errors import OptionError
from ....records.files.claim import claimed
from ....records.files.sealed_folder import seal_folder
from ....records.files.whole import check_folder
from ....records.record import Metric
from ...data.input_limits import check_inputs
from ...folders.model_heads import heads_of, parameters_of
from ...trainer.updates import training_steps
from .arguments import MODEL_OPTIONS, ModelArguments, ResultArguments
from .dry_run import plan_of
from .identity import identity_of
from .log_levels import log_levels
from .origin import check_checkpoint, check_lengths
from .output_folder import STATE, WORKED_OUT, NotedSettings, begin, settings_of, starting_point, updates_of
from .parsing import parse, say
from .places import check_model_folder, check_space
from .results import Outcome, Records
from .system import Setup, System
from .trainer_checks import check_trainer


@dataclass
class _Training:
    """What came of `Trainer.train`.

    Attributes:
        was_over: whether the training was over before this start. resumed: whether it went on from a
            checkpoint.
    """

    updates: int
    seconds: float
    was_over: bool
    resumed: bool


def option_groups(data: type, own: Sequence[type]) -> list[type]:
    """List the dataclasses of a program's options; arguments as `read_options`."""
    model = MODEL_OPTIONS.get(data, ModelArguments)
    return [model, data, *own, ResultArguments, TrainingArguments]


def read_options(doc: str, data: type, own: Sequence[type], argv: Sequence[str]) -> tuple[Setup, list[Any]]:
    """Parse a command line, once.

    Args:
        doc: the program's help. data: `GlueArguments`, `SquadArguments` or `ClmArguments`.
        own: a system's own groups of options, dataclasses; what they have of a method `check` is called.

    Returns:
        the options of every training program, and one instance of each of `own`.

    Raises:
        ValueError: options that cannot be; named.
    """
    model, data_options, *chosen, results, args = parse(doc, option_groups(data, own), argv)
    log_levels(args)
    if not args.output_dir:
        raise OptionError("output_dir", ": name a folder for the results")
    for group in chosen:
        if hasattr(group, "check"):
            group.check()
    return Setup(model, data_options, results, args), chosen


def train_system(system: System) -> dict[str, Any]:
    """Train, score and record as the options say; or say what would be (`--dry_run`).

    Returns:
        split -> metrics as the Trainer names them, of every scored split.

    Raises:
        ValueError, OSError: options, model, data or folder that cannot be; before training.
    """
    return run_system(system).scores


def run_system(system: System, then: Callable[[Outcome], Outcome] | None = None) -> Outcome:
    """Do what `train_system` does, and go on with another part of the command.

    Args:
        then: gets what came of the system, whose folder stays claimed meanwhile; its result is returned. A
            dry run ends without it.
    """
    setup = system.setup
    args, results = setup.args, setup.results
    system.check()
    check_model_folder(setup.model.model_name_or_path, args.output_dir, args.do_train, system.writes)
    if results.record_dir:
        check_folder("record_dir", results.record_dir)
    check_trainer(args, setup.task)
    if results.dry_run:
        if not args.do_train:
            raise OptionError("dry_run", "says what a training would be: give {}", "do_train")
        with tempfile.TemporaryDirectory() as scratch:
            return _run(system, scratch)
    with claimed("output_dir", args.output_dir) if setup.is_main else contextlib.nullcontext():
        found = _run(system)
        return found if then is None else then(found)


def _run(system: System, scratch: str = "") -> Outcome:
    """Do the steps in their order.

    Args:
        scratch: where a dry run writes what nobody keeps.
    """
    setup = system.setup
    args, task = setup.args, setup.task
    enable_full_determinism(args.seed) if args.full_determinism else set_seed(args.seed)
    # before the optimizers are made, which may take the clipping upon themselves
    settings = system.settings()
    checkpoint = None
    if args.do_train:
        settings.update(identity_of(setup.model), train_data=task.train_fingerprint())
        checkpoint = starting_point(args, settings, setup.results.overwrite_output_dir)
        system.checkpoint = checkpoint
    if scratch:
        args.output_dir = scratch
    model = system.load()
    check_lengths(model, system.tokenizer, task)
    task.check_model(model, system.tokenizer)
    if checkpoint is not None:
        check_checkpoint(checkpoint, system.stored(model))
    _read_data(system, model)
    updates = 0
    if args.do_train:
        updates = training_steps(args, len(task.train))
        noted = {} if checkpoint is None else settings_of(checkpoint).get(WORKED_OUT, {})
        if found := system.work_out(model, updates, noted):
            settings[WORKED_OUT] = found
    trainer = system.trainer(model)
    if args.do_train:
        trainer.add_callback(NotedSettings(settings))
        check_space(args.output_dir, model, args)
    if scratch:
        done = 0 if checkpoint is None else updates_of(checkpoint)
        heads = system.units(system.heads(trainer.model))
        for line in plan_of(trainer, updates, heads, done).lines():
            say(line)
        return Outcome({})
    label = setup.results.method or system.label(model)
    training = None
    if args.do_train:
        if setup.is_main:
            begin(args, settings, checkpoint, setup.results.overwrite_output_dir, system.parts)
        training = _train(system, trainer, checkpoint, updates)
        trainer = system.deployed(trainer)
    scores = _score(setup, trainer) if args.do_eval else {}
    if args.do_predict:
        _predict(setup, trainer)
    outcome = Outcome(
        {split: metrics for split, (metrics, _) in scores.items()},
        label,
        0 if training is None else training.updates,
    )
    return _report(system, trainer.model, outcome, scores, training) if setup.is_main else outcome


def _read_data(system: System, model: PreTrainedModel) -> None:
    """Read and tokenise the splits that the run needs; raises ValueError where the model cannot take them."""
    options, args, task = system.setup.model, system.setup.args, system.setup.task
    task.read(args.do_train, args.do_eval or args.eval_strategy != "no", args.do_predict)
    task.tokenise(system.tokenizer)
    for data in filter(None, [task.train, *task.dev.values(), *task.test.values()]):
        check_inputs(data, model, options.tokenizer_name or options.model_name_or_path)


def _train(system: System, trainer: Trainer, checkpoint: str | None, updates: int) -> _Training:
    """Train, from a checkpoint on where there is one, and write what was trained."""
    args = system.setup.args
    was_over = checkpoint is not None and updates_of(checkpoint) >= updates
    if was_over:
        # nothing is left to do; where the end is inside an epoch, the Trainer would make one more update
        args.max_steps, args.num_train_epochs = -1, 0
    started = time.time()
    output = trainer.train(resume_from_checkpoint=checkpoint)
    seconds, state = time.time() - started, trainer.state
    if was_over:  # the state tells of the training, not of this start without one
        done = TrainerState.load_from_json(str(Path(checkpoint) / STATE))
        state.max_steps, state.num_train_epochs = done.max_steps, done.num_train_epochs
    if args.load_best_model_at_end and state.best_model_checkpoint is None:
        say(
            "--load_best_model_at_end: no checkpoint was scored that could be the best, and the "
            "model is the last one"
        )
    system.save(trainer)
    trainer.save_state()
    if system.setup.is_main and (Path(args.output_dir) / "config.json").is_file():
        seal_folder(args.output_dir)
    trainer.save_metrics("train", output.metrics)
    return _Training(state.global_step, seconds, was_over, checkpoint is not None)


def _score(setup: Setup, trainer: Trainer) -> dict[str, Any]:
    """Score every development set: split -> (metrics as the Trainer names them, seconds)."""
    found = {}
    for split, data in setup.task.dev.items():
        trainer.compute_metrics = setup.task.compute_metrics(split)
        started = time.time()
        output = trainer.predict(data, metric_key_prefix="eval")
        seconds = time.time() - started
        more = {f"eval_{name}": value for name, value in setup.task.more_scores(trainer, split).items()}
        suffix = setup.task.suffix(split)
        metrics = {f"{name}{suffix}": value for name, value in {**output.metrics, **more}.items()}
        found[split] = (metrics, seconds)
        trainer.log_metrics(f"eval{suffix}", metrics)
        trainer.save_metrics(f"eval{suffix}", metrics)
        if setup.is_main:
            setup.task.write_dev(setup.args.output_dir, split, output.predictions)
    return found


def _predict(setup: Setup, trainer: Trainer) -> None:
    """Write the predictions of the test sets."""
    task, folder = setup.task, setup.args.output_dir
    trainer.compute_metrics = None
    if not task.test and not setup.args.do_eval:  # SQuAD: the scored set is the one to answer
        for split, data in task.dev.items():
            output = trainer.predict(data)
            if setup.is_main:
                task.write_dev(folder, split, output.predictions)
    for split in task.test:
        predictions = task.predictions(trainer, split)
        if setup.is_main:
            for name in task.write_test(folder, split, predictions):
                say(f"predictions: {folder}/{name}")


def _report(
    system: System,
    model: PreTrainedModel,
    outcome: Outcome,
    scores: dict[str, Any],
    training: _Training | None,
) -> Outcome:
    """Write the records and what the system writes beside them; print the scores, and return them, too."""
    setup = system.setup
    task, folder = setup.task, setup.args.output_dir.rstrip("/") or "/"
    heads, parameters = heads_of(model), parameters_of(model)
    records = Records(
        task.kind,
        setup.results.record_dir or folder,
        name=setup.results.record_name or task.name,
        method=outcome.label,
        device=setup.args.device,
        seed=setup.args.seed,
        data=task.data_fingerprint(),
        heads=heads,
        parameters=parameters,
    )
    more = {"model": setup.model.source.split("/")[-1], "main_metric": task.main_metric, **system.figures()}
    # the record of a training that was over before says how long it took
    if training and not (training.was_over and Path(records.folder, "results.json").is_file()):
        extra = {**more, **system.training_figures(), "resumed": training.resumed}
        extra["train_examples"] = len(task.train)
        records.training(training.seconds, training.updates, extra)
    found = {split: _metrics(task, split, metrics) for split, (metrics, _) in scores.items()}
    for split, (_, seconds) in scores.items():
        extra = {**more, **task.figures(split), "examples": len(task.dev[split])}
        records.scoring(split, found[split], seconds, extra)
        task.write_beside(str(Path(records.folder, split)), split)
    system.finish(model, heads, parameters)
    metrics = sum(found.values(), [])
    for metric in metrics:
        say(f"{metric.name} on {metric.subset}: {metric.value:.2f} {metric.unit}".rstrip())
    say(f"records: {records.folder}")
    return replace(outcome, metrics=metrics, heads=heads, parameters=parameters)


def _metrics(task: Any, split: str, metrics: dict[str, float]) -> list[Metric]:
    """Return the task's own metrics, without those of speed."""
    suffix = task.suffix(split)
    found = [(name, metrics.get(f"eval_{name}{suffix}")) for name in task.metrics]
    return [task.measured(name, value, split) for name, value in found if value is not None]
