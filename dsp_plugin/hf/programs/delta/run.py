"""Delta-Tuning as a program: one stage, or several one after the other, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ....options.errors import OptionError
from ....records.files.whole import check_folder
from ...delta.checkpoints import FILE
from ..chassis.output_folder import check_training
from ..chassis.parsing import say
from ..chassis.results import Outcome
from ..chassis.system import TASKS, Setup
from ..chassis.train import read_options, run_system
from .arguments import DeltaArguments, PromptArguments, without_idle_epochs
from .stage import DeltaStage
from .task import DeltaTask

TASKS[PromptArguments] = DeltaTask


def run_delta(doc: str, argv: Sequence[str]) -> dict[str, Any]:
    """Run the program; arguments as `read_options`.

    Returns:
        split -> metrics as the Trainer names them, of every scored split of the last stage.
    """
    setup, (options,) = read_options(doc, PromptArguments, (DeltaArguments,), without_idle_epochs(argv))
    stages, start = options.stages(), _start(options)
    _check(setup, options, stages)
    if not setup.args.do_train:
        return dict(run_system(DeltaStage(setup, options, (), start=start)).scores)
    if len(stages) < 2:
        return dict(run_system(DeltaStage(setup, options, *stages, start=start)).scores)
    return _in_turn(setup, options, stages, start)


def _check(setup: Setup, options: DeltaArguments, stages: Sequence[tuple[str, ...]]) -> None:
    """Raise an OptionError for stages that the template or the command cannot have; before any work."""
    task = setup.task
    named = {method for stage in stages for method in stage}
    if "prompt" in named and task.prompted and not task.template.has_prompt and setup.args.do_train:
        reason = f"{task.template.source!r} has no *prompt*, where the vectors of prompt stand"
        raise OptionError("template", reason)
    if options.use_adapter and "adapter" not in named and stages:
        say("--use_adapter: adapter is not in --training_params, and none is put in")
    if not setup.args.do_train and stages and not options.delta_checkpoint:
        # as published: what was not trained changes nothing
        say("--training_params without --do_train: nothing is trained, and the base is scored as it is")
    if setup.args.do_train and options.delta_checkpoint and not stages:
        raise OptionError("delta_checkpoint", "goes on with methods: name them by {}", "training_params")


def _start(options: DeltaArguments) -> Path | None:
    if not options.delta_checkpoint:
        return None
    given = Path(options.delta_checkpoint)
    return given / FILE if given.is_dir() else given


def _in_turn(
    setup: Setup, options: DeltaArguments, stages: Sequence[tuple[str, ...]], start: Path | None
) -> dict[str, Any]:
    """Run the stages; each begins with the last step of the one before."""
    if setup.args.resume_from_checkpoint:
        reason = "is one checkpoint: each stage goes on from the last one in its own folder; start the same "
        raise OptionError("resume_from_checkpoint", reason + "command again")
    numbered = list(enumerate(stages, start=1))
    places = [setup.within(f"stage{number}-{'+'.join(stage)}") for number, stage in numbered]
    for place in places[:-1]:  # the last step counts where another stage follows
        place.args.load_best_model_at_end = False
        if place.args.save_total_limit == 1:
            # of one the Trainer keeps the best, and a command started again would train the rest anew
            place.args.save_total_limit = 2
    for place in places:
        check_folder("output_dir", place.args.output_dir)
        if place.results.record_dir:
            check_folder("record_dir", place.results.record_dir)
        check_training(place.args, place.results.overwrite_output_dir)
    done: list[tuple[str, Outcome]] = []
    for place, (number, methods) in zip(places, numbered):
        say(f"stage {number} of {len(stages)}, {','.join(methods)}: {place.args.output_dir}")
        system = DeltaStage(place, options, methods, number, start, len(stages), stages[number:])
        outcome = run_system(system)
        done.append((place.args.output_dir, outcome))
        if setup.results.dry_run:
            say(f"then {len(stages) - 1} more, one after the other")
            return {}
        start = Path(place.args.output_dir, FILE)
    for folder, outcome in done:
        words = [f"{metric.name} {metric.value:.2f} on {metric.subset}" for metric in outcome.metrics]
        say(f"{outcome.label}: {', '.join(words) or 'not scored'} ({folder})")
    return dict(done[-1][1].scores)
