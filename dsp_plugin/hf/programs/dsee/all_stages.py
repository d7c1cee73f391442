"""Stages of DSEE in one command, each in a folder of its own: 1st, 2nd and 3rd in --output_dir."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from ....options.errors import OptionError
from ....records.files.whole import check_folder
from ...dsee.checkpoints import FILE
from ..chassis.arguments import option
from ..chassis.output_folder import check_training
from ..chassis.parsing import say
from ..chassis.results import Outcome
from ..chassis.system import Setup
from ..chassis.train import read_options, run_system
from ..chassis.tuning import TuningArguments
from .arguments import PruneArguments, StartArguments, UpdateArguments, without_idle_flags
from .prune import PruneStage, with_heads
from .stage import DseeStage
from .tune import TuneStage
from .update import UpdateStage, update_or_finetune

FIRST, SECOND, THIRD = "1st", "2nd", "3rd"


@dataclass
class ThirdArguments:
    """How stage III trains, where it does so otherwise than stage I."""

    third_learning_rate: Annotated[float | None, "positive"] = option(
        "peak of the learning rate of stage III; default: --learning_rate"
    )
    third_num_train_epochs: Annotated[float | None, "positive"] = option(
        "epochs of stage III; default: --num_train_epochs"
    )
    third_max_steps: Annotated[int | None, "count"] = option(
        "updates of stage III; default: --max_steps, or by its epochs"
    )


ThirdArguments._argument_group_name = "DSEE, stage III"  # type: ignore[attr-defined]


def run_prune(doc: str, data: type, argv: Sequence[str], heads: int | None = None) -> dict[str, Any]:
    """Run the program of stages II and III.

    Args:
        heads: that go from every layer, where the command line does not say it. Others as `read_options`.

    Returns:
        split -> metrics as the Trainer names them, of every scored split of the last stage.
    """
    groups = (UpdateArguments, StartArguments, PruneArguments)
    setup, (update, begin, pruning) = read_options(doc, data, groups, without_idle_flags(argv))
    return _prune(setup, update, begin, with_heads(pruning, heads))


def run_all(doc: str, data: type, argv: Sequence[str]) -> dict[str, Any]:
    """Run the program of all three stages; as `run_prune`."""
    groups = (UpdateArguments, StartArguments, PruneArguments, ThirdArguments)
    setup, (update, begin, pruning, after) = read_options(doc, data, groups, without_idle_flags(argv))
    if not update.apply_lora:
        raise OptionError("apply_lora", "is what all three stages are about, and is missing")
    if begin.dsee_checkpoint:
        reason = "is trained already: run_glue_prune.py begins with it; here stage I trains"
        raise OptionError("dsee_checkpoint", reason)
    return _all(setup, update, begin, with_heads(pruning, None), after)


def run_any(doc: str, data: type, argv: Sequence[str]) -> dict[str, Any]:
    """Run a program that has it all: without --apply_lora all weights are finetuned, with it stage I is run;
    with something to prune all stages, or II and III of --dsee_checkpoint. As `run_prune`.
    """
    groups = (UpdateArguments, StartArguments, PruneArguments, ThirdArguments, TuningArguments)
    setup, (update, begin, pruning, after, tuning) = read_options(doc, data, groups, without_idle_flags(argv))
    pruning = with_heads(pruning, None)
    if not (pruning.unstructured or pruning.structured):
        return update_or_finetune(setup, update, begin, tuning)
    if tuning.tune_epochs is not None:
        raise OptionError("tune_epochs", "trains all weights on, and here stage III trains the update on")
    if begin.dsee_checkpoint:
        return _prune(setup, update, begin, pruning)
    if not update.apply_lora:
        raise OptionError("dsee_checkpoint", "or {} goes with what is to be pruned", "apply_lora")
    return _all(setup, update, begin, pruning, after)


def _prune(
    setup: Setup, update: UpdateArguments, begin: StartArguments, pruning: PruneArguments
) -> dict[str, Any]:
    """Run stages II and III; without --do_train stage II alone, in --output_dir itself."""
    if not setup.args.do_train:
        return dict(run_system(PruneStage(setup, update, begin, pruning)).scores)
    _refuse_resume(setup)
    third = setup.within(THIRD)
    _check_later(third)
    stages = _Stages()
    _prune_and_tune(stages, setup, third, update, begin, pruning)
    return stages.say()


def _all(
    setup: Setup,
    update: UpdateArguments,
    begin: StartArguments,
    pruning: PruneArguments,
    after: ThirdArguments,
) -> dict[str, Any]:
    if not setup.args.do_train:
        raise OptionError("do_train", "is missing: all three stages train")
    if not (pruning.unstructured or pruning.structured):
        others = ("ad_pruning_ratio", "prune_heads_num", "prune_neurons")
        raise OptionError("pruning_ratio", "or {}, {} or {} says what is to be pruned", *others)
    _refuse_resume(setup)
    first, third = setup.within(FIRST), setup.within(THIRD)
    if after.third_learning_rate is not None:
        third.args.learning_rate = after.third_learning_rate
    if after.third_num_train_epochs is not None:
        third.args.num_train_epochs, third.args.max_steps = after.third_num_train_epochs, -1
    if after.third_max_steps is not None:
        third.args.max_steps = after.third_max_steps
    _check_later(third)
    stages = _Stages()
    stages.run(UpdateStage(first, update, begin))
    if setup.results.dry_run:
        say(f"then stages II and III, in {setup.args.output_dir}/{SECOND} and /{THIRD}")
        return {}
    begin = replace(begin, dsee_checkpoint=f"{first.args.output_dir}/{FILE}")
    _prune_and_tune(stages, setup, third, update, begin, pruning)
    return stages.say()


def _prune_and_tune(
    stages: _Stages,
    setup: Setup,
    third: Setup,
    update: UpdateArguments,
    begin: StartArguments,
    pruning: PruneArguments,
) -> None:
    """Run stages II and III; with a gradual pruning of weights, what is left of stage II."""
    at_once = pruning
    if pruning.gradual_updates:
        at_once = replace(pruning, pruning_ratio=0.0, ad_pruning_ratio=0.0, gradual_updates=0)
    second = setup.within(SECOND)
    if at_once.unstructured or at_once.structured or not pruning.gradual_updates:
        second.args.do_predict = False
        if not setup.results.dry_run:
            stages.run(PruneStage(second, update, begin, at_once))
            begin = replace(begin, dsee_checkpoint=f"{second.args.output_dir}/{FILE}")
    stages.run(TuneStage(third, update, begin, pruning))


class _Stages:
    """Runs stages, and says at the end what each has come to."""

    def __init__(self):
        self.done: list[tuple[DseeStage, Outcome]] = []

    def run(self, stage: DseeStage) -> None:
        say(f"stage {stage.number}: {stage.setup.args.output_dir}")
        self.done.append((stage, run_system(stage)))

    def say(self) -> dict[str, Any]:
        """Print a line a stage; return the scores of the last one."""
        for stage, outcome in self.done:
            if not stage.account:
                continue
            account = stage.account
            words = [f"{metric.name} {metric.value:.2f} on {metric.subset}" for metric in outcome.metrics]
            flops, whole = account["flops"], account["base_weights"]
            words += [
                f"{account['trainable']:,} learn",
                f"{100 * account['weights_left'] / whole:.1f} % of the weights left",
                f"{100 * flops['deployed'] / max(flops['base'], 1):.1f} % of the FLOPs",
                f"{account['latency']['speedup']:.2f} times as fast",
                f"{account['bytes']:,} bytes",
            ]
            say(f"stage {stage.number}, {outcome.label}: {', '.join(words)}")
        return dict(self.done[-1][1].scores)


def _refuse_resume(setup: Setup) -> None:
    if setup.args.resume_from_checkpoint:
        reason = "is one checkpoint: each stage goes on from the last one in its own folder; start the same "
        raise OptionError("resume_from_checkpoint", reason + "command again")


def _check_later(setup: Setup) -> None:
    """Raise a ValueError where a stage that is to come could not write its folders, or go on in them."""
    check_folder("output_dir", setup.args.output_dir)
    if setup.results.record_dir:
        check_folder("record_dir", setup.results.record_dir)
    check_training(setup.args, setup.results.overwrite_output_dir)
