"""Every way of diff pruning and every density on GLUE tasks and on SQuAD (diff.yaml)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dsp_plugin.options.numbers import number
from dsp_plugin.records.record import load_records, method_label
from dsp_plugin.reports.tables.diffs import across_rows, diff_rows, main_column
from dsp_plugin.reports.tables.rows import csv_table, markdown_table

from .base import needed
from .bert import SQUAD, BertPlan
from .options import Option, words_of

INFO, MASK, PACK = "checkpoint-last-info.pt", "mask.diff.safetensors", "task.diff.safetensors"


@dataclass(frozen=True)
class Run:
    """A baseline or a stage 1; with a density stages 2 and 3 from it, which is its source."""

    task: str
    method: str
    seed: int
    density: float | None = None
    source: Run | None = None

    @property
    def name(self) -> str:
        density = "" if self.density is None else f"-{self.density:g}"
        return f"{self.task}/{self.method}{density}-seed{self.seed}"

    def sets(self, plan: BertPlan) -> list[str]:
        """Return where the records of its last stage are, below its folder."""
        return list(plan.sets(self.task))


class DiffPlan(BertPlan):
    name = "diff"
    more = {
        "densities": Option(number("share"), [], many=True),
        "squad_densities": Option(number("share"), [], many=True),
    }

    def runs_of(self, seed: int) -> list[Run]:
        runs = []
        for task in self.options.tasks:
            few = task == SQUAD and not self.options.all_methods
            densities = self.options.squad_densities if task == SQUAD else self.options.densities
            methods = {
                m: how
                for m, how in self.settings.methods.items()
                if not few or m in self.settings.squad_methods
            }
            for method, how in methods.items():
                runs += [Run(task, method, seed)] if "options" in how else []
                if "method" in how:
                    source = Run(task, how["source"], seed)
                    runs += [Run(task, method, seed, density, source) for density in densities]
        return runs

    # ---- command lines: stage 1 or a baseline, and stages 2 and 3

    def command(self, run: Run, records: Path | None = None, model: str | None = None) -> list[str]:
        """Return the command line of the last stage of a run."""
        if run.density is not None:
            return self.tuning(run, model)
        how, settings = self.settings.methods[run.method], self.settings
        words = self.training_words(
            run.task, how.get("learning_rate", settings.learning_rate), self._epochs(run, settings.epochs)
        )
        record = (records or self.options.results) / run.name
        return self._line(run, "diffpruning", "", record, [*words, *words_of(how["options"])], model)

    def projection(self, run: Run) -> list[str]:
        """Return the command line of stage 2."""
        words = [
            "--do_eval",
            "--per_device_eval_batch_size",
            str(self.bert.training["per_device_eval_batch_size"]),
        ]
        words += [*self.scored_words(), "--eval_checkpoint", str(self.output(run.source))]
        words += ["--save_checkpoint", str(self.mask(run)), "--target_sparsity", f"{run.density:g}"]
        return self._line(run, "mag", "2nd", self.options.results / run.name / "projected", words)

    def tuning(self, run: Run, model: str | None = None) -> list[str]:
        """Return the command line of stage 3."""
        words = self.training_words(
            run.task, self.settings.finetune_lr, self._epochs(run, self.settings.finetune_epochs)
        )
        words += [
            "--mask_checkpoint",
            str(self.mask(run)),
            "--save_pack",
            str(self.options.runs / run.name / PACK),
        ]
        return self._line(run, "fixmask_finetune", "3rd", self.options.results / run.name, words, model)

    def commands(self, run: Run) -> list[list[str]]:
        return [self.command(run)] if run.density is None else [self.projection(run), self.tuning(run)]

    def _line(
        self, run: Run, suffix: str, output: str, record: Path, words: list[str], model: str | None = None
    ) -> list[str]:
        program = "scripts/squad/run_squad" if run.task == SQUAD else "scripts/glue/run_glue"
        start = ["--model_name_or_path", model or self.model()]
        start += [*self.data_words(run.task), "--seed", str(run.seed)]
        places = ["--output_dir", str(self.options.runs / run.name / output), "--record_dir", str(record)]
        return [f"{program}_{suffix}.py", *start, *places, *words]

    def _epochs(self, run: Run, epochs: int) -> int:
        return self.settings.squad_epochs if run.task == SQUAD else epochs

    # ---- files

    def mask(self, run: Run) -> Path:
        return self.options.runs / run.name / MASK

    def output(self, run: Run) -> Path:
        """Name the model or the diff that stage 2 starts from."""
        return self.options.runs / run.name / ("" if run.method == "full" else INFO)

    def model_file(self, run: Run) -> Path:
        return self.options.runs / run.name / ("config.json" if run.method == "full" else INFO)

    # ---- what is left

    def unprojected(self, run: Run) -> list[str]:
        """Return the first record that stage 2 lacks, as a list of one; empty where it has all or is none."""
        if run.density is None:
            return []
        paths = [
            self.options.results / run.name / "projected" / one / "results.json" for one in run.sets(self)
        ]
        return [str(path) for path in paths if not path.is_file()][:1]

    def complete(self, run: Run) -> bool:
        return not self.missing(run) and not self.unprojected(run)

    def wanted(self) -> list[str]:
        return [path for run in self.runs for path in (*self.unprojected(run), *self.missing(run))]

    def mask_of(self, run: Run) -> list[str]:
        """Return what stage 3 waits for: the record of stage 2, or its mask, which a clone has not."""
        return self.unprojected(run) or needed(self.mask(run))

    # ---- tables

    def tables(self) -> dict[Path, str]:
        """Make table.md and one table.csv a task."""
        options, tables, rows_of, scores, parts = (
            self.options,
            {self.options.results / "table.md": ""},
            {},
            {},
            [],
        )
        for task in options.tasks:
            expected: dict[str, None] = {}
            for run in self.runs_of(options.seeds[0]):
                how = self.settings.methods[run.method]
                if run.task == task and (run.density is not None or "baseline" in how["options"]):
                    expected[
                        run.method if run.density is None else method_label(how["method"], run.density)
                    ] = None
            folder = options.results / task
            metric, subsets = self.metric(task)
            records = (
                [record for record in load_records(folder) if record.seed in options.seeds]
                if folder.is_dir()
                else []
            )
            rows, columns = diff_rows(records, metric, list(expected), subsets, len(options.seeds))
            rows_of[task], scores[task] = rows, main_column(columns, metric)
            parts.append(f"## {self.record_name(task)}\n\n{markdown_table(rows, columns)}\n")
            tables[folder / "table.csv"] = csv_table(rows, columns)
        head = (
            f"Development sets, scores of the reloaded packs in percent, {len(options.seeds)} seed(s). "
            "Made by `make diff`. Density is of all weights but the task head's.\n"
        )
        overview = markdown_table(
            *across_rows(rows_of, scores, [task for task in options.tasks if task != SQUAD])
        )
        tables[options.results / "table.md"] = "\n".join([head, f"{overview}\n", *parts])
        return tables
