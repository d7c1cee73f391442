"""DSEE's three stages on GLUE tasks: LoRA alone, the supports of S2, what is pruned (dsee.yaml)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsp_plugin.records.record import Record, find_records
from dsp_plugin.records.settings import in_both, other_settings
from dsp_plugin.reports.intervals import INTERVALS, differences
from dsp_plugin.reports.tables.diffs import read_method
from dsp_plugin.reports.tables.dsee import LORA, UNTUNED, dsee_figures, dsee_rows
from dsp_plugin.reports.tables.rows import Row, csv_table, markdown_table, spread_notes

from .base import needed
from .bert import SQUAD, BertPlan, values_of
from .options import Option, flag, place, words_of

FILE = "task.dsee.safetensors"
SPEED = "speed"  # the folder of what was measured again

Entry = "tuple[Path, Record]"


@dataclass(frozen=True)
class Run:
    """A stage I; with a source stages II and III from that one's update."""

    task: str
    method: str
    seed: int
    source: Run | None = None

    @property
    def name(self) -> str:
        return f"{self.task}/{self.method}-seed{self.seed}"

    @property
    def last(self) -> str:
        """The folder of its last stage, within its own."""
        return "" if self.source is None else "3rd/"

    def sets(self, plan: BertPlan) -> list[str]:
        """Return where the records of its last stage are, below its folder."""
        return [f"{self.last}{one}" for one in plan.sets(self.task)]


class DseePlan(BertPlan):
    name = "dsee"
    more = {
        "speed": Option(flag, False),  # measure the latency again, one model at a time
        "beside": Option(place),  # folder of the records of full finetuning and of diffs (results/diff)
    }

    def __init__(self, config: Mapping[str, Any]):
        self._seeds_given = any(name.lower() == "seeds" and value for name, value in config.items())
        super().__init__(config)

    def runs_of(self, seed: int) -> list[Run]:
        runs = []
        for task in self.options.tasks:
            if task == SQUAD:
                raise ValueError(f"tasks {SQUAD}: the programs of DSEE are for GLUE's tasks")
            if seed in self.seeds_of(task):
                for method in self.methods_of(task):
                    source = self.settings.methods[method].get("source")
                    runs.append(Run(task, method, seed, source and Run(task, source, seed)))
        return runs

    def seeds_of(self, task: str) -> list[int]:
        """Return a task's seeds: those of the command line, or its own."""
        if self._seeds_given:
            return self.options.seeds
        return self.settings.seeds_of.get(task, self.options.seeds)

    def methods_of(self, task: str) -> list[str]:
        """Return the methods that are run on a task."""
        every = self.options.all_methods
        return [m for m, how in self.settings.methods.items() if every or task in how.get("tasks", [task])]

    # ---- command lines

    def command(self, run: Run, records: Path | None = None, model: str | None = None) -> list[str]:
        """Return the command line of stage I, or of stages II and III."""
        how, settings, folder = self.settings.methods[run.method], self.settings, self.options.runs
        epochs = settings.epochs if run.source is None else settings.third_epochs
        training = self.training_words(run.task, settings.learning_rate, how.get("epochs", epochs))
        if run.source is None:
            program, own = "run_glue", [*words_of(settings.lora), *self._label(run)]
            if "support" in how:
                own += words_of({**settings.sparse, "sparse_method": how["support"]})
        else:
            heads = "prune_heads_num" in how["pruning"]
            program = "run_glue_prune_heads" if heads else "run_glue_prune"
            own = ["--dsee_checkpoint", str(folder / run.source.name), *words_of(how["pruning"])]
        record = (records or self.options.results) / run.name
        return self._line(run, program, folder / run.name, record, [*training, *own], model)

    def measuring(self, run: Run) -> list[str]:
        """Return the command line that scores a run's file again, and measures its latency."""
        place = self.options.runs / run.name
        batch = str(self.bert.training["per_device_eval_batch_size"])
        words = ["--do_eval", "--per_device_eval_batch_size", batch, *self.scored_words(), "--apply_lora"]
        words += ["--dsee_checkpoint", str(place / run.last), *self._label(run)]
        return self._line(run, "run_glue", place / SPEED, self.options.results / run.name / SPEED, words)

    def commands(self, run: Run) -> list[list[str]]:
        return [self.command(run), *([self.measuring(run)] if self.options.speed else [])]

    def _line(
        self, run: Run, program: str, output: Path, record: Path, words: list[str], model: str | None = None
    ) -> list[str]:
        start = [f"scripts/dsee/{program}.py", "--model_name_or_path", model or self.model()]
        places = ["--output_dir", str(output), "--record_dir", str(record)]
        return [*start, *self.data_words(run.task), "--seed", str(run.seed), *places, *words]

    def _label(self, run: Run) -> list[str]:
        """Name the method of a run that its options do not tell from another's."""
        how = self.settings.methods[run.method]
        return ["--method", how["method"]] if how.get("named") else []

    # ---- what is left

    def model_file(self, run: Run) -> Path:
        return self.options.runs / run.name / run.last / FILE

    def unmeasured(self, run: Run) -> list[str]:
        """Return the record that a run's latency lacks, where it is asked for, as a list."""
        if not self.options.speed:
            return []
        paths = [
            self.options.results / run.name / SPEED / one / "results.json" for one in self.sets(run.task)
        ]
        return [str(path) for path in paths if not path.is_file()][:1]

    def complete(self, run: Run) -> bool:
        return not self.missing(run) and not self.unmeasured(run)

    def wanted(self) -> list[str]:
        return [path for run in self.runs for path in (*self.missing(run), *self.unmeasured(run))]

    def measured_from(self, run: Run) -> list[str]:
        """Return what a latency waits for: the run's records and its file."""
        return self.missing(run) or needed(self.model_file(run))

    # ---- tables

    def tables(self) -> dict[Path, str]:
        """Make table.md and one table.csv a task; tasks of later that nothing was run of are named."""
        options, tables = self.options, {self.options.results / "table.md": ""}
        asked, more = options.tasks, [t for t in self.settings.later_tasks if t not in options.tasks]
        parts, unmeasured = [], []
        for task in [*asked, *more]:
            folder = options.results / task
            found = [entry for entry in _found_in(folder) if entry[1].seed in self.seeds_of(task)]
            if task in more and not found:
                unmeasured.append(task)
                continue
            rows, columns, notes = self._table(task, found)
            parts += [
                f"## {task}\n",
                markdown_table(rows, columns) + "\n",
                *(f"- {note}" for note in notes),
                "",
            ]
            tables[folder / "table.csv"] = csv_table(rows, columns)
        if unmeasured:
            parts.append(
                f'Not measured: {", ".join(unmeasured)} (`make dsee TASKS="{" ".join(unmeasured)}"`).\n'
            )
        tables[options.results / "table.md"] = "\n".join([self._head(), *parts])
        return tables

    def _head(self) -> str:
        settings = self.settings
        lora, sparse = settings.lora, settings.sparse
        return (
            "DSEE on development sets, scores of the reloaded files in percent. Made by `make dsee`. LoRA on "
            f"query and value, r = {lora['lora_r']}, alpha = {lora['lora_alpha']}, and "
            f"{sparse['num_sparse']} single entries a matrix: {settings.epochs} epochs; what is pruned begins "
            f"with `dsee-2-epochs` and has {settings.third_epochs} more, which alone its updates and seconds "
            "count. h3: 3 of 12 heads a layer are gone, n0.4: 40 % of the neurons, w and q: shares of the "
            "weights without and with an update.\n"
        )

    def _table(self, task: str, found: list[Entry]) -> tuple[list[Row], list[str], list[str]]:
        expected = [self.settings.methods[method]["method"] for method in self.methods_of(task)]
        metric, subsets = self.metric(task)
        own = {*expected, *(label + UNTUNED for label in expected)}
        found = [entry for entry in found if entry[1].method in own and dsee_figures(entry[1]) is not None]
        beside, left_out = self._beside(task, [record for _, record in found])
        between, notes = differences(found, metric, subsets[0], LORA)
        records = [record for _, record in found] + beside
        rows, columns = dsee_rows(records, metric, expected, subsets, len(self.seeds_of(task)), between)
        if between:
            notes.insert(0, INTERVALS)
        if beside:
            notes.append(f"of results/diff, on the same data, model and batches: {_listed(beside)}")
        notes += [f"left out of results/diff: {line}" for line in left_out]
        if found:
            notes.append(_measured_how([record for _, record in found]))
        return rows, columns, notes + spread_notes(rows)

    def _beside(self, task: str, ours: Sequence[Record]) -> tuple[list[Record], list[str]]:
        """Find full finetuning and diffs to stand beside; and say what has other settings, and which."""
        found, left_out = [], {}
        for _, record in _found_in((self.options.beside or Path("results", "diff")) / task) if ours else ():
            kind = read_method(record.method)
            if kind.stage or kind.percent is None or kind.method not in self.settings.beside:
                continue
            if reason := _difference(record, ours[0], self.settings.same):
                left_out[f"{record.method}: {reason}"] = None
            elif record.seed in self.seeds_of(task):
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


def _listed(records: Sequence[Record]) -> str:
    return ", ".join(dict.fromkeys(record.method for record in records))


def _measured_how(records: Sequence[Record]) -> str:
    """Say what operations and latency were counted and measured on."""
    accounts = [dsee_figures(record) for record in records]
    batches = {"x".join(map(str, account["batch"])) for account in accounts if account.get("batch")}
    threads = {account["latency"]["threads"] for account in accounts if account.get("latency")}
    return (
        f"FLOPs, ms and times as fast: of a batch of {' or '.join(sorted(batches))} tokens, merged, beside "
        f"the base, {' or '.join(map(str, sorted(threads)))} thread(s), pairs in turn: median, and the range "
        "of all pairs, which is wide where the machine was busy (`SPEED=1` measures again)"
    )
