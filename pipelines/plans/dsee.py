"""DSEE's three stages on GLUE tasks: LoRA alone, the supports of S2, what is pruned (dsee.yaml)."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsp_plugin.records.files.sealed import read_json

from .base import needed
from .bert import SQUAD, BertPlan
from .dsee_tables import SPEED, Pair, pairs_of, records_of, tables_of
from .options import FOLDER, ROOT, Option, flag, place, words_of

FILE = "task.dsee.safetensors"


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
        self.config = config  # for the program that compares
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

    @property
    def intervals_file(self) -> Path:
        """Name the file of the differences' intervals, which only an environment with NumPy can work out."""
        return self.options.results / "intervals.json"

    def pairs(self) -> list[Pair]:
        """Return every method's runs with their answers, beside those of LoRA alone of the same seeds."""
        return [
            pair for task in self.tasks_of_table() for pair in pairs_of(self, task, records_of(self, task))
        ]

    def tasks_of_table(self) -> list[str]:
        """Return the tasks that are asked for, and those of later."""
        return list(dict.fromkeys([*self.options.tasks, *self.settings.later_tasks]))

    def noted(self) -> dict[str, Any]:
        return read_json(self.intervals_file) if self.intervals_file.is_file() else {}

    def uncompared(self) -> list[Pair]:
        """Return the pairs whose interval is not noted, or is of other answers."""
        noted = self.noted()
        return [pair for pair in self.pairs() if pair.interval(noted) is None]

    def table_files(self) -> list[str]:
        return [] if self.left() or self.uncompared() else super().table_files()

    def tables(self) -> dict[Path, str]:
        return tables_of(self, self.noted())

    def write_tables(self) -> str:
        """Compare what was not compared yet, then write the tables."""
        if self.uncompared():
            command = [self.options.python or "python3", str(FOLDER / "compare_answers.py")]
            for name, value in self.config.items():
                words = map(str, value) if isinstance(value, (list, tuple)) else [str(value)]
                command.append(f"{name}={' '.join(words)}")
            subprocess.run(command, cwd=ROOT, check=True)
        return super().write_tables()
