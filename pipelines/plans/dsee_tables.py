"""The tables of dsee.yaml: every method of a task beside LoRA alone, full finetuning and diffs."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsp_plugin.records.record import Record, find_records
from dsp_plugin.records.settings import in_both, other_settings
from dsp_plugin.reports.tables.diffs import read_method
from dsp_plugin.reports.tables.dsee import INTERVALS, LORA, UNTUNED, difference_text, dsee_figures, dsee_rows
from dsp_plugin.reports.tables.rows import Row, csv_table, markdown_table, spread_notes

from .bert import values_of

if TYPE_CHECKING:
    from .dsee import DseePlan

SPEED = "speed"  # the folder of what was measured again
ANSWERS = "answers.json.xz"  # records.answers says what is in it; that module wants NumPy

Entry = "tuple[Path, Record]"


@dataclass(frozen=True)
class Pair:
    """A method's scored runs and those of LoRA alone, seed by seed, with what they answered.

    Attributes:
        metric: the task's.
        records: (run's, LoRA's) files, one pair a seed.
        runs: how many seeds the method was run with.
    """

    task: str
    method: str
    metric: str
    records: tuple[tuple[Path, Path], ...]
    runs: int

    @property
    def name(self) -> str:
        return f"{self.task}: {self.method} and {LORA}"

    def content(self) -> str:
        """Return what tells these answers from others."""
        found = hashlib.sha256()
        for path in (path for both in self.records for path in both):
            found.update(path.read_bytes() + (path.parent / ANSWERS).read_bytes())
        return f"sha256:{found.hexdigest()}"

    def interval(self, noted: Mapping[str, Mapping[str, Any]]) -> str | None:
        """Write the difference that was noted for just these answers; None where none was."""
        known = noted.get(self.name)
        if not known or known["content"] != self.content():
            return None
        return difference_text(known["difference"], known["low"], known["high"])


def records_of(plan: DseePlan, task: str) -> list[Entry]:
    """Find a task's own records of the seeds asked for, with the latency of what was measured again."""
    labels = {label for one in _labels(plan, task) for label in (one, one + UNTUNED)}
    folder = plan.options.results / task
    found = _found_in(folder)
    runs = {path: path.relative_to(folder).parts for path, _ in found}
    again = {runs[path][0]: record for path, record in found if SPEED in runs[path]}
    kept = [
        (path, record)
        for path, record in found
        if SPEED not in runs[path]
        and record.method in labels
        and record.seed in plan.seeds_of(task)
        and dsee_figures(record) is not None
    ]
    for path, record in kept:
        other = again.get(runs[path][0])
        if other is not None and not record.method.endswith(UNTUNED):
            record.extra["dsee"] = {**record.extra["dsee"], "latency": other.extra["dsee"]["latency"]}
    return kept


def pairs_of(plan: DseePlan, task: str, found: Sequence[Entry]) -> list[Pair]:
    """Pair a task's records with those of LoRA alone, where both have their answers beside them."""
    metric, subsets = plan.metric(task)
    scored: dict[str, dict[int | None, Path]] = {}
    for path, record in found:
        if record.metric(metric, subsets[0]) is not None:
            scored.setdefault(record.method, {})[record.seed] = path
    base, made = scored.get(LORA, {}), []
    for method in (label for label in _labels(plan, task) if label != LORA):
        runs = scored.get(method, {})
        both = [(path, base[seed]) for seed, path in sorted(runs.items()) if seed in base]
        answered = tuple(pair for pair in both if all((path.parent / ANSWERS).is_file() for path in pair))
        if answered:
            made.append(Pair(task, method, metric, answered, len(runs)))
    return made


def tables_of(plan: DseePlan, noted: Mapping[str, Mapping[str, Any]]) -> dict[Path, str]:
    """Make table.md and one table.csv a task; tasks of later that nothing was run of are named.

    Args:
        noted: the intervals, as `Pair.interval` takes them.
    """
    tables = {plan.options.results / "table.md": ""}
    parts, unmeasured = [], []
    for task in plan.tasks_of_table():
        found = records_of(plan, task)
        if task not in plan.options.tasks and not found:
            unmeasured.append(task)
            continue
        rows, columns, notes = _table(plan, task, found, noted)
        parts += [f"## {task}\n", f"{markdown_table(rows, columns)}\n"]
        parts += [*(f"- {note}" for note in notes), ""]
        tables[plan.options.results / task / "table.csv"] = csv_table(rows, columns)
    if unmeasured:
        command = f'make dsee TASKS="{" ".join(unmeasured)}"'
        parts.append(f"Not measured: {', '.join(unmeasured)} (`{command}`).\n")
    tables[plan.options.results / "table.md"] = "\n".join([_head(plan), *parts])
    return tables


def _labels(plan: DseePlan, task: str) -> list[str]:
    return [plan.settings.methods[method]["method"] for method in plan.methods_of(task)]


def _head(plan: DseePlan) -> str:
    settings = plan.settings
    lora, sparse = settings.lora, settings.sparse
    return (
        "DSEE on development sets, scores of the reloaded files in percent. Made by `make dsee`. LoRA on "
        f"query and value, r = {lora['lora_r']}, alpha = {lora['lora_alpha']}, and {sparse['num_sparse']} "
        f"single entries a matrix: {settings.epochs} epochs; what is pruned begins with `dsee-2-epochs` and "
        f"has {settings.third_epochs} more, which alone its updates and seconds count. h3: 3 of 12 heads a "
        "layer are gone, n0.4: 40 % of the neurons, w and q: shares of the weights without and with an "
        "update.\n"
    )


def _table(
    plan: DseePlan, task: str, found: Sequence[Entry], noted: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Row], list[str], list[str]]:
    """Return the rows of a task's table, the names of its columns, and what stands below it."""
    metric, subsets = plan.metric(task)
    own = [record for _, record in found]
    beside, left_out = _beside(plan, task, own)
    pairs = {pair.method: pair for pair in pairs_of(plan, task, found)}
    between = {method: text for method, pair in pairs.items() if (text := pair.interval(noted)) is not None}
    seeds = len(plan.seeds_of(task))
    rows, columns = dsee_rows([*own, *beside], metric, _labels(plan, task), subsets, seeds, between)
    notes = [f"{INTERVALS}"] if between else []
    for method in between:
        if len(pairs[method].records) < pairs[method].runs:
            notes.append(f"{method}: its difference is of {len(pairs[method].records)} seed(s)")
    if beside:
        listed = ", ".join(dict.fromkeys(record.method for record in beside))
        notes.append(f"of results/diff, on the same data, model and batches: {listed}")
    notes += [f"left out of results/diff: {line}" for line in left_out]
    return rows, columns, [*notes, *_measured_how(own), *spread_notes(rows)]


def _beside(plan: DseePlan, task: str, ours: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """Find full finetuning and diffs to stand beside; and say what has other settings, and which."""
    found, left_out = [], {}
    folder = (plan.options.beside or Path("results", "diff")) / task
    whole = ours and not plan.options.quick  # a trial's scores are of a few examples
    for _, record in _found_in(folder) if whole else ():
        kind = read_method(record.method)
        if kind.stage or kind.percent is None or kind.method not in plan.settings.beside:
            continue
        if reason := _difference(record, ours[0], plan.settings.same):
            left_out[f"{record.method}: {reason}"] = None
        elif record.seed in plan.seeds_of(task):
            found.append(record)
    return found, list(left_out)


def _found_in(folder: Path) -> list[Entry]:
    return find_records(folder) if folder.is_dir() else []


def _difference(record: Record, ours: Record, names: Sequence[str]) -> str:
    """Name what two trainings do not have in common: data, model, or one of the options of these names."""
    if record.data != ours.data:
        return "other data"
    if record.extra.get("model") != ours.extra.get("model"):
        return "another model"
    theirs, mine = values_of(shlex.split(record.command)), values_of(shlex.split(ours.command))
    known = in_both(theirs, mine)
    return "; ".join(other_settings(theirs, mine, [name for name in names if name in known]))


def _measured_how(records: Sequence[Record]) -> list[str]:
    """Say what operations and latency were counted and measured on."""
    accounts = [dsee_figures(record) for record in records]
    batches = {"x".join(map(str, account["batch"])) for account in accounts if account.get("batch")}
    threads = {account["latency"]["threads"] for account in accounts if account.get("latency")}
    if not batches or not threads:
        return []
    return [
        f"FLOPs, ms and times as fast: of a batch of {' or '.join(sorted(batches))} tokens, merged, beside "
        f"the base, {' or '.join(map(str, sorted(threads)))} thread(s), in pairs: median, and the range of "
        "all pairs, by the processor's clock where one thread ran. A wide range is that of a busy machine: "
        "`SPEED=1` measures again"
    ]
