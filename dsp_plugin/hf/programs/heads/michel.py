"""The programs `run_michel.py`: heads of a finetuned model go by importance (Michel et al., 2019)."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from transformers import Trainer, TrainingArguments, set_seed

from ....gating import Step, parse_heads_per_kind, plan_removal
from ....options.errors import OptionError
from ....options.numbers import MEANINGS
from ....records.files.whole import check_folder
from ...data.input_limits import check_inputs
from ...heads.importance import ExampleRanking
from ...heads.sweep import prune_by_importance
from ...heads.units import head_map_of
from ..chassis.arguments import ModelArguments, option, required
from ..chassis.log_levels import log_levels
from ..chassis.models import load, say_open_heads
from ..chassis.origin import check_lengths
from ..chassis.parsing import parse, say
from ..chassis.places import check_model_folder
from ..chassis.system import TASKS
from .sweep_records import write_records
from .written import check_prunable


@dataclass
class MichelArguments:
    """Heads of a finetuned model by importance (Michel, Levy and Neubig, 2019)."""

    output_dir: str = required(
        "folder for the steps, masks, records and pruned models; a sweep goes on from there"
    )
    num_of_heads: Annotated[int, "count"] = option("heads to remove a step (a STEP here, not a budget)", 12)
    exact_pruning: bool = option(
        "work the importance out anew under the current mask before every step", False
    )
    budgets: Annotated[list[int] | None, "amount"] = option(
        "numbers of heads the sweep lands on exactly; it stops at the smallest; default: 0"
    )
    heads_per_kind: str | None = option("the end: heads left of each kind of attention, encoder-self=20,...")
    min_heads_per_block: Annotated[int, "amount"] = option("heads that every attention block keeps", 0)
    rank_by: str = option(
        "what heads go by: importance, magnitude (of their weights) or random", "importance"
    )
    importance_subset: str = option(
        "what importance is worked out on: train, or a scored set (dev, dev_matched ...)", "train"
    )
    data_subset: Annotated[int, MEANINGS["count"].or_else(0, -1, meant="for all")] = option(
        "work importance out on so many of its examples, drawn by --seed; below 1: on all", -1
    )
    batch_importance: bool = option(
        "take the absolute value of a batch's gradient, not of every example's", False
    )
    dont_normalize_importance_by_layer: bool = option(
        "do not divide by the L2 norm over a block's heads", False
    )
    dont_normalize_global_importance: bool = option("do not scale to 0..1 over all heads", False)
    metric_name: str | None = option("the score that is shown; default: the task's main one")
    no_scores: bool = option("work masks out only", False)
    score_only_budgets: bool = option("score only the full model, the budgets and the end", False)
    batch_size: Annotated[int, "count"] = option("examples a batch, of importance and of scores", 32)
    overwrite_output_dir: bool = option(
        "remove the steps, masks and models of an earlier sweep in --output_dir, and begin", False
    )
    no_pruned: bool = option(
        "do not write the models with their dead heads removed (output_dir/pruned-K<k>, one a budget)", False
    )
    record_dir: str | None = option("folder of the records results.json; default: --output_dir")
    record_name: str | None = option("name of the setting in the records; default: the task")
    method: str | None = option("name of the method in the records; default: michel, magnitude or random")
    seed: Annotated[int, "seed"] = option("of the sample, and of the ranking `random`", 42)
    use_cpu: bool = option("keep to the CPU", False)

    def check(self) -> None:
        """Raise an OptionError for what the options cannot be."""
        self.ranking().check()
        parse_heads_per_kind(self.heads_per_kind)

    def ranking(self) -> ExampleRanking:
        return ExampleRanking(
            self.rank_by,
            self.batch_importance,
            not self.dont_normalize_importance_by_layer,
            not self.dont_normalize_global_importance,
            self.data_subset if self.data_subset > 0 else None,
            self.seed,
            self.batch_size,
        )


MichelArguments._argument_group_name = "Importance of heads"  # type: ignore[attr-defined]


def michel(doc: str, data: type, argv: Sequence[str]) -> list[Step]:
    """Run the whole of `run_michel.py`.

    Args:
        doc: its help. data: `GlueArguments` or `SquadArguments`.

    Returns:
        the steps, see `prune_by_importance`.

    Raises:
        ValueError, OSError: options, model, data or folder that cannot be; before long work.
    """
    model_options, data_options, options = parse(doc, [ModelArguments, data, MichelArguments], argv)
    options.check()
    args = TrainingArguments(
        output_dir=options.output_dir,
        per_device_eval_batch_size=options.batch_size,
        use_cpu=options.use_cpu,
        seed=options.seed,
        disable_tqdm=True,
        report_to="none",
    )
    log_levels(args)
    for name in ("output_dir", "record_dir"):
        if getattr(options, name):
            check_folder(name, getattr(options, name))
    task = TASKS[data](data_options, model_options.cache_dir)
    shown = options.metric_name or task.main_metric
    if shown not in task.metrics:
        raise OptionError("metric_name", f"{shown}: {task.name} has {', '.join(task.metrics)}")
    set_seed(options.seed)
    models = {path.name for path in Path(options.output_dir).glob("pruned-K*")} | {
        f"pruned-K{k}" for k in options.budgets or []
    }
    check_model_folder(model_options.model_name_or_path, options.output_dir, False, tuple(models))

    model, tokenizer, new = load(model_options, task)
    if new:
        raise OptionError(
            "model_name_or_path",
            f"{model_options.model_name_or_path} is no trained model of {task.name} ({', '.join(new[:3])} "
            "are not in it): finetune it first",
        )
    check_lengths(model, tokenizer, task)
    say_open_heads(model_options.model_name_or_path)
    if not options.no_pruned:
        check_prunable(model, model_options)
    head_map, budgets = head_map_of(model), options.budgets or []
    ends = options.heads_per_kind, options.min_heads_per_block
    plan = plan_removal(head_map, head_map.num_heads, options.num_of_heads, budgets, *ends)
    by_importance = options.rank_by == "importance"
    task.read(by_importance and options.importance_subset == "train", True, False)
    task.tokenise(tokenizer)
    measured = task.train if options.importance_subset == "train" else task.dev.get(options.importance_subset)
    if by_importance and measured is None:
        raise OptionError(
            "importance_subset", f"{options.importance_subset}: there are train, {', '.join(task.dev)}"
        )

    for scored in filter(None, [task.train, *task.dev.values()]):
        check_inputs(scored, model, model_options.tokenizer_name or model_options.model_name_or_path)

    model.to(args.device)
    trainer = Trainer(model=model, args=args, data_collator=task.collate, processing_class=tokenizer)

    def evaluate(split: str) -> dict[str, float]:
        trainer.compute_metrics = task.compute_metrics(split)
        found = trainer.predict(task.dev[split], metric_key_prefix="eval").metrics
        return {
            name: task.scale * found[f"eval_{name}"]
            for name in sorted(task.metrics, key=lambda name: name != shown)
        }

    if options.overwrite_output_dir:
        _remove_steps(Path(options.output_dir))
    started = time.time()
    steps = prune_by_importance(
        model,
        measured,
        task.collate,
        options.output_dir,
        options.num_of_heads,
        evaluate,
        options.exact_pruning,
        options.ranking(),
        () if options.no_scores else tuple(task.dev),
        budgets,
        plan.wish,
        options.score_only_budgets,
        {
            **task.settings(),
            "importance_subset": options.importance_subset,
            "metric": shown,
            "data": task.data_fingerprint(),
            "scored": [task.subset(split) for split in task.dev],
        },
        progress=sys.stderr.isatty(),
        say=say,
    )
    if args.process_index == 0:
        examples = 0 if not by_importance else len(options.ranking().sample(len(measured)))
        extra = {
            "importance_examples": examples,
            "importance_subset": options.importance_subset if by_importance else None,
        }
        write_records(
            steps,
            model,
            tokenizer,
            task,
            options,
            args,
            shown,
            {**extra, "sweep_seconds": time.time() - started},
        )
    return steps


def _remove_steps(folder: Path) -> None:
    for path in [*folder.glob("step-*.json"), *folder.glob("mask-K*.json")]:
        path.unlink(missing_ok=True)  # another process may have been faster
    for path in folder.glob("pruned-K*"):
        shutil.rmtree(path, ignore_errors=True)
