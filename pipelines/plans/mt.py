"""Every method of head pruning and every budget on Multi30k (mt.yaml)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsp_plugin.records.files.whole import check_folder
from dsp_plugin.records.record import load_records
from dsp_plugin.reports.tables.rows import Setting, csv_table, markdown_table, signature_notes, table_rows

from .base import Plan, needed
from .options import COMMON, Option, flag, read_options, read_settings

SCORES = ("mt-bleu", "mt-speed")


@dataclass(frozen=True)
class Run:
    """One training, what is left of its heads and their scores: a method, the model, K and the seed.

    Attributes:
        swept: of the budgets of a sweep that several runs start from; it is no run with scores of its own.
    """

    model: str
    method: str
    seed: int
    budget: int | None = None
    swept: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        budget = "" if self.budget is None else f"-K{self.budget}"
        if self.swept:
            budget = f"-sweep-K{'-'.join(map(str, self.swept))}"
        return f"{self.model}/{self.method}{budget}-seed{self.seed}"


class MTPlan(Plan):
    """Checkpoints are below runs/grid/<model>/<run>/, records below results/multi30k/<model>/<run>/<set>/.

    A training is done when its record is beside its checkpoints: it is written at the end, and the checkpoint
    alone may be that of a training that was stopped.
    """

    name, folder_of_runs = "mt", "runs/grid"  # name: of the YAML file
    more: Mapping[str, Option] = {"speed": Option(flag, False)}  # settings beside the common ones

    def __init__(self, config: Mapping[str, Any]):
        # flags: more of fairseq's, for training and scoring
        options = read_options(config, {**COMMON, "flags": Option(), **self.more})
        self.settings = read_settings(f"{self.name}.yaml", options.settings)
        options.runs = options.runs or Path(self.folder_of_runs)
        options.results = options.results or Path("results") / self.settings.dataset
        super().__init__(options)

    def runs_of(self, seed: int) -> list[Run]:
        return [
            Run(row["model"], method, seed, budget)
            for row in self.settings.grid
            for budget in row.get("budgets", [None])
            for method in row["methods"]
        ]

    def check(self) -> None:
        for name in ("runs", "results"):
            check_folder(name, getattr(self.options, name))

    # ---- files

    def how(self, run: Run) -> Mapping[str, Any]:
        return self.settings.methods[run.method]

    def folder(self, run: Run) -> Path:
        return self.options.runs / run.name

    def checkpoint(self, run: Run) -> Path:
        """Name what would be deployed: the best checkpoint, its dead heads removed."""
        return self.folder(run) / ("checkpoint_best.pt" if run.budget is None else "checkpoint_pruned.pt")

    def record(self, run: Run, scored: str) -> Path:
        return self.options.results / run.name / scored / "results.json"

    def scored(self, run: Run) -> list[str]:
        """Return the sets with a record each: before and after tuning, or what the method has of these."""
        suffixes = [suffix for key, suffix in (("method", ""), ("tuned", "-tuned")) if key in self.how(run)]
        return [f"{subset}{suffix}" for suffix in suffixes for subset in self.settings.sets]

    def unpruned_of(self, run: Run) -> Run:
        """Return the run whose model others of this model and seed start from."""
        return Run(run.model, "unpruned", run.seed)

    def unpruned(self, run: Run) -> Path:
        """Name the checkpoint that others of this model and seed start from."""
        return self.folder(self.unpruned_of(run)) / "checkpoint_best.pt"

    # ---- what is left

    def complete(self, run: Run) -> bool:
        return all(self.record(run, scored).is_file() for scored in self.scored(run))

    def wanted(self) -> list[str]:
        left = self.left()
        records = [
            path for run in left for scored in self.scored(run) for path in needed(self.record(run, scored))
        ]
        return [
            *records,
            *(path for run in left if run.budget is not None for path in needed(self.checkpoint(run))),
        ]

    def source_of(self, run: Run) -> list[str]:
        """Return the training that a run starts from, unless it is done."""
        if not self.how(run).get("from_unpruned"):
            return []
        return needed(self.folder(self.unpruned_of(run)) / "results.json")

    def trained(self, run: Run) -> list[str]:
        """Return what heads are taken out of: the run's own training, or without one the unpruned model."""
        without = self.how(run)["script"] == "michel" or "method" not in self.how(run)
        return self.source_of(run) if without else needed(self.folder(run) / "results.json")

    def tunable(self, run: Run) -> list[str]:
        """Return what is tuned: the model without its dead heads, or the unpruned one."""
        return self.trained(run) if run.budget is None else needed(self.checkpoint(run))

    def scorable(self, run: Run) -> list[str]:
        """Return what is scored before tuning: the best checkpoint, for Michel's the pruned one."""
        return needed(self.checkpoint(run)) if self.how(run)["script"] == "michel" else self.trained(run)

    # ---- command lines

    def command(self, run: Run, steps: str, **more: str) -> list[str]:
        """Return the command of a pipeline of scripts/mt that does `steps` of it; `more` of its settings."""
        model, how = self.settings.models[run.model], self.how(run)
        environment = {
            **model["environment"],
            **how.get("environment", {}),
            "DATASET": self.settings.dataset,
            "SEED": run.seed,
            "SAVE_DIR": self.folder(run),
            "RECORD_DIR": self.options.results / run.name,
            "RECORD_NAME": f"{self.settings.dataset}-{run.model}",
            "UNPRUNED": self.unpruned(run),
            **({} if run.budget is None else {"K": run.budget}),
            **self.settings_of(run),
            **({"FLAGS": self.options.flags} if self.options.flags else {}),
            "STEPS": steps,
            **more,
        }
        return [
            "env",
            *(f"{name}={value}" for name, value in environment.items()),
            f"scripts/mt/{how['script']}.sh",
        ]

    def settings_of(self, run: Run) -> Mapping[str, Any]:
        """Return settings of the run's script that no YAML file has, since they hang on the run."""
        return {}

    # ---- tables

    def row_settings(self, run: Run) -> list[Setting]:
        """Return the settings of the table's rows that the records of this run fill."""
        total, how = self.settings.models[run.model]["heads"], self.how(run)
        kept = total if run.budget is None else run.budget
        methods = [how[key] for key in ("method", "tuned") if key in how]
        return [Setting(f"{self.settings.dataset}-{run.model}", method, kept, total) for method in methods]

    def tables(self) -> dict[Path, str]:
        folder, seeds = self.options.results, self.options.seeds
        expected = [setting for run in self.runs_of(seeds[0]) for setting in self.row_settings(run)]
        found = load_records(folder) if folder.is_dir() else []
        # another pipeline's records of other models lie beside these
        names = {f"{self.settings.dataset}-{model}" for model in self.settings.models}
        records = [record for record in found if record.kind in SCORES and record.name in names]
        rows, columns = table_rows(records, expected, list(self.settings.sets), len(seeds))
        sets = ", ".join(f"{name} is {file}" for name, file in self.settings.sets.items())
        text = f"Multi30k de-en; {sets}. Made by `make grid`.\n\n"
        text += markdown_table(rows, columns) + "\n\n" + "\n".join(signature_notes(records)) + "\n"
        return {folder / "table.md": text, folder / "table.csv": csv_table(rows, columns)}
