"""The tables of delta.yaml: combinations few-shot and in full, orders of stages, transfer between tasks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dsp_plugin.records.record import RecordError, load_record
from dsp_plugin.reports.tables.delta import combination_rows, order_rows, rates_note, taken, transfer_rows
from dsp_plugin.reports.tables.delta_runs import Run, read_runs
from dsp_plugin.reports.tables.rows import Row, csv_table, markdown_table, spread_notes

from .delta_runs import FEW, FULL, NONE, ORDERS, PARTS, TENFOLD, TRANSFER

if TYPE_CHECKING:
    from .delta import DeltaPlan


def tables_of(plan: DeltaPlan) -> dict[Path, str]:
    """Make table.md, and a CSV file of each table, from the records alone."""
    made = Tables(plan)
    tables = {plan.options.results / "table.md": ""}
    parts = [made.head()]
    for part in (one for one in PARTS if one in plan.options.parts):
        for title, stem, rows, columns, notes in getattr(made, part)():
            parts += [f"## {title}\n", f"{markdown_table(rows, columns)}\n"]
            parts += [*(f"- {note}" for note in [*notes, *spread_notes(rows)] if note), ""]
            tables[plan.options.results / f"{stem}.csv"] = csv_table(rows, columns)
    parts += [made.unmeasured()] if FEW in plan.options.parts else []
    tables[plan.options.results / "table.md"] = "\n".join(parts)
    return tables


Table = "tuple[str, str, list[Row], list[str], list[str]]"  # title, file, rows, columns, notes


class Tables:
    """Makes the tables of a plan from its records, one method a part."""

    def __init__(self, plan: DeltaPlan):
        self.plan = plan
        self.labels = [how.get("method", name) for name, how in plan.settings.methods.items()]
        folders = [plan.options.results / task for task in plan.bert.tasks]
        self.runs = [run for folder in folders if folder.is_dir() for run in read_runs(folder)]

    def head(self) -> str:
        """Say what all rows have in common, with the record of the base."""
        training = self.plan.settings.training
        text = (
            "Delta-Tuning by prompts (templates in words) on labelled test sets, scores in percent. Made by "
            "`make delta`. full: all weights by prompts; full-finetune: all weights and a task head; none: "
            f"the base as it is. Few-shot: {training['max_steps']} updates of "
            f"{training['per_device_train_batch_size']} examples, the step that is best on the development "
            "set. tunable: numbers that learn; bytes: of a task's file (where seeds differ, the median)."
        )
        return f"{text}\n\n{self._base()}\n"

    def _base(self) -> str:
        path = self.plan.options.results / "mlm" / "results.json"
        if self.plan.options.masked:
            return f"All rows begin with {Path(self.plan.options.masked).name}."
        if not path.is_file():
            return "The masked language model that all rows begin with: not measured."
        try:
            record = load_record(path)
        except RecordError as error:
            return f"The masked language model that all rows begin with: {error}."
        model, packaged = record.extra["model"], self.plan.bert.model
        model = packaged["package"] if model == packaged["folder"] else model
        before, after = (metric.value for metric in record.metrics)
        return (
            f"All rows begin with the same weights: {model} with a masked-LM head that was "
            f"pretrained on {record.extra['sentences']:,} training sentences for "
            f"{record.seconds['train'] / 60:.0f} minutes ({record.extra['clock']}), {record.updates:,} "
            f"updates. Of masked words of held-out training sentences {before:.1f} % were told right before "
            f"and {after:.1f} % after."
        )

    def few(self, part: str = FEW) -> list[Table]:
        plan, times = self.plan, " with ten times the development examples" if part == TENFOLD else ""
        tables = {task: taken(self._of(part, task)) for task in plan.tasks_of(part)}
        title = f"{plan.k} examples a class{times}"
        return [(title, part, *self._combinations(part, tables, "test"))]

    def tenfold(self) -> list[Table]:
        return self.few(TENFOLD)

    def full(self) -> list[Table]:
        plan, settings = self.plan, self.plan.settings.full
        tables = {task: taken(self._of(FULL, task)) for task in plan.tasks_of(FULL)}
        rows, columns, notes = self._combinations(FULL, tables, "dev")
        notes.append(
            f"{settings['epochs']} epoch(s) of batches of {settings['batch']}, at most "
            f"{settings['most_updates']} updates; the rates were not tuned; scored on dev, as the official "
            "test sets have no labels"
        )
        return [("Whole training sets", FULL, rows, columns, notes)]

    def orders(self) -> list[Table]:
        plan, settings = self.plan, self.plan.settings.orders
        orders = list(itertools.permutations(settings["methods"]))
        tables = []
        for task in plan.tasks_of(ORDERS):
            found = taken(self._of(ORDERS, task))
            rows, columns = order_rows(found, orders, self._metric(task))
            notes = [
                f"{settings['max_steps']} updates a stage, each at the rate of its method alone; a stage "
                "begins with the last step of the one before; of the last stage the step that is best on dev "
                "counts. Orders that begin alike share these stages",
                rates_note({task: found}),
            ]
            title = f"{task}, three stages in every order, {plan.k} examples a class"
            tables.append((title, f"{ORDERS}-{task}", rows, columns, notes))
        return tables

    def transfer(self) -> list[Table]:
        plan = self.plan
        tasks = plan.tasks_of(TRANSFER)
        seeds = {task: plan.seeds_in(TRANSFER, task) for task in tasks}
        tables = []
        for method in plan.settings.transfer["methods"]:
            found = {}
            for task in tasks:
                few = [run for run in self._of(FEW, task) if run.about["seed"] in seeds[task]]
                found[task] = {method: taken(few).get(method, []), **taken(self._of(TRANSFER, task))}
            metrics = {task: self._metric(task) for task in tasks}
            rows, columns = transfer_rows(found, metrics, method)
            notes = [
                f"few-shot training that begins with the {method} of another task's whole training set, at "
                "the rate from scratch; relative: to the score from scratch of the same seeds"
            ]
            title = f"From task to task, {method}, {plan.k} examples a class"
            tables.append((title, f"{TRANSFER}-{method}", rows, columns, notes))
        return tables

    def unmeasured(self) -> str:
        """Name the tasks that can be run and were not."""
        named = [task for task in self.plan.settings.later_tasks if task not in self.plan.options.tasks]
        if not named:
            return ""
        return f'Not measured: {", ".join(named)} (`make delta PARTS="few" TASKS="{" ".join(named)}"`).\n'

    def _combinations(self, part: str, tables: dict, scored: str) -> tuple[list[Row], list[str], list[str]]:
        plan = self.plan
        metrics = {task: self._metric(task) for task in tables}
        seeds = {task: len(plan.seeds_in(part, task)) for task in tables}
        rows, columns = combination_rows(tables, metrics, self.labels, scored, seeds)
        chosen = f"rates by the development set of seed {plan.settings.sweep_seed}" if part != FULL else ""
        return rows, columns, [chosen, rates_note(tables, self.labels)]

    def _metric(self, task: str) -> str:
        return self.plan.bert.tasks[task]["metric"]

    def _of(self, part: str, task: str) -> Sequence[Run]:
        """Return a task's runs of a part, of the seeds asked for."""
        seeds, name = self.plan.seeds_in(part, task), self.plan.record_name(task)
        return [
            run
            for run in self.runs
            if (run.about["tag"], run.about["task"]) == (part, name)
            and run.about["num_k"] == (None if part == FULL else self.plan.k)
            and (run.about["seed"] in seeds or run.about["method"] == NONE)
        ]
