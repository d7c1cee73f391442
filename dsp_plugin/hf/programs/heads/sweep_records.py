"""What a sweep of `run_michel.py` leaves: its records, the pruned models, a table."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

from ....gating import FixedGates, Step
from ....records.record import Metric, new_record, save_record
from ...folders.model_heads import heads_of, parameters_of
from ...heads.gating import gate_heads, ungate_heads
from ..chassis.parsing import say
from ..chassis.results import Records, say_heads
from .written import save_pruned_model


def write_records(
    steps: list[Step],
    model: PreTrainedModel,
    tokenizer: Any,
    task: Any,
    options: Any,
    args: TrainingArguments,
    shown: str,
    extra: dict[str, Any],
) -> None:
    """Write a record of the sweep and one of every scored step, and the pruned models; print the table."""
    folder = options.record_dir or options.output_dir
    method = options.method or ("michel" if options.rank_by == "importance" else options.rank_by)
    common = dict(
        name=options.record_name or task.name,
        method=method,
        device=args.device,
        seed=options.seed,
        data=task.data_fingerprint(),
    )
    budgets = {step["kept"] for step in steps} & set(options.budgets or [steps[-1]["kept"]])
    for step in steps:
        wanted = step["kept"] in (options.budgets or []) and not options.no_pruned
        if not (step["scores"] or wanted or step is steps[-1]):
            continue
        gate_heads(model, FixedGates(torch.tensor(step["keep"], dtype=torch.bool)))
        heads, parameters = heads_of(model), parameters_of(model)
        if wanted:
            save_pruned_model(
                model,
                tokenizer,
                os.path.join(options.output_dir, f"pruned-K{step['kept']}"),
                parameters["before"],
            )
        ungate_heads(model)
        records = Records(
            task.kind, os.path.join(folder, f"K{step['kept']}"), heads=heads, parameters=parameters, **common
        )
        for split, found in step["scores"].items():
            metrics = [
                Metric(name, value, unit="%", subset=task.subset(split))
                for name, value in found["metrics"].items()
            ]
            records.scoring(
                split,
                metrics,
                None,
                {"main_metric": shown, "step": step["step"], "exact": options.exact_pruning},
            )
        if step["kept"] in budgets and step["kept"]:
            say_heads(heads)
    seconds = extra.pop("sweep_seconds")
    curve = [
        {"kept": s["kept"], shown: {split: found["value"] for split, found in s["scores"].items()}}
        for s in steps
    ]
    summary = new_record(
        f"{task.kind}-michel",
        **common,
        heads=heads,
        parameters=parameters,
        seconds={"sweep": seconds},
        extra={
            **extra,
            "main_metric": shown,
            "step": options.num_of_heads,
            "exact": options.exact_pruning,
            "curve": curve,
            "removed": [head for step in steps for head in step["removed"]],
            "per_batch": options.batch_importance,
        },
    )
    written = save_record(summary, os.path.join(folder, "results.json"))
    _say_table(steps, shown)
    say(f"steps and masks: {options.output_dir}; record: {written}")


def _say_table(steps: list[Step], shown: str) -> None:
    splits = list(dict.fromkeys(split for step in steps for split in step["scores"]))
    say("  ".join(["   K", *(f"{shown} {split}" for split in splits)]))
    for step in steps:
        cells = [
            f"{step['scores'][split]['value']:>{len(shown) + 1 + len(split)}.2f}"
            if split in step["scores"]
            else f"{'-':>{len(shown) + 1 + len(split)}}"
            for split in splits
        ]
        say("  ".join([f"{step['kept']:>4}", *cells]))
