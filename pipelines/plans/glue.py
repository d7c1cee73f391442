"""Every method of head pruning and every budget on GLUE tasks and on SQuAD (glue.yaml)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dsp_plugin.options.numbers import number
from dsp_plugin.records.record import load_records
from dsp_plugin.reports.tables.rows import Setting, csv_table, markdown_table, setting_of, table_rows

from .bert import SQUAD, BertPlan, share
from .options import Option, words_of


@dataclass(frozen=True)
class Run:
    """One start of a program: a task, a method, the seed; K heads, or the budgets of a sweep.

    Attributes:
        label: the budgets in its name.
        sweep: whether all budgets are one run, each with records in a folder of its own.
    """

    task: str
    method: str
    seed: int
    budgets: tuple[int, ...] = ()
    label: str = ""
    sweep: bool = False
    source: Run | None = None

    @property
    def name(self) -> str:
        return f"{self.task}/{self.method}{self.label}-seed{self.seed}"

    def sets(self, plan: BertPlan) -> list[str]:
        """Return where its records are, below its folder."""
        folders = [f"K{k}/" for k in self.budgets] if self.sweep else [""]
        folders += ["tuned/"] if "tuned" in plan.settings.methods[self.method] else []
        return [f"{folder}{one}" for folder in folders for one in plan.sets(self.task)]


class GluePlan(BertPlan):
    name = "glue"
    more = {"budgets": Option(number("amount"), [], many=True)}

    def runs_of(self, seed: int) -> list[Run]:
        runs = []
        for task in self.options.tasks:
            few = task == SQUAD and not self.options.all_methods
            budgets = self.options.budgets[:1] if few else self.options.budgets
            unpruned = Run(task, "unpruned", seed)
            for method, how in self.settings.methods.items():
                if few and method not in self.settings.squad_methods:
                    continue
                source = unpruned if how.get("from_unpruned") else None
                if "sweep" in how:  # its budgets are part of its settings, and a folder has one setting
                    swept, label = budgets, "-K" + "-".join(map(str, budgets))
                    if budgets == self.settings.budgets:
                        swept, label = getattr(self.settings, "sweep_budgets", budgets), ""
                    runs.append(Run(task, method, seed, tuple(swept), label, True, source))
                elif how.get("whole"):
                    runs.append(unpruned if method == "unpruned" else Run(task, method, seed, source=source))
                else:
                    runs += [Run(task, method, seed, (k,), f"-K{k}", False, source) for k in budgets]
        return runs

    def command(self, run: Run, records: Path | None = None, model: str | None = None) -> list[str]:
        how, settings, options = self.settings.methods[run.method], self.settings, self.options
        room, program = "glue", how["program"]
        if run.task == SQUAD:
            room, program = "squad", how.get("squad_program", program)
        model = str(options.runs / run.source.name) if run.source else model or self.model()
        words = [f"scripts/{room}/{program}.py", "--model_name_or_path", model, *self.data_words(run.task)]
        words += [
            "--output_dir",
            str(options.runs / run.name),
            "--record_dir",
            str((records or options.results) / run.name),
        ]
        words += ["--seed", str(run.seed)]
        if "sweep" in how:
            batch = self.bert.training["per_device_train_batch_size"]
            sweep = {**settings.sweep, **({"data_subset": batch} if options.quick else {})}
            words += [*words_of(sweep), "--budgets", *map(str, run.budgets)]
            return words + ["--batch_size", str(batch), "--rank_by", how["sweep"], *self.scored_words()]
        epochs = how.get("epochs", settings.squad_epochs if run.task == SQUAD else settings.epochs)
        updates = self.bert.quick_steps if options.quick else self.updates(run.task, epochs)
        words += [
            *self.training_words(run.task, settings.learning_rate, epochs, how.get("quick_steps", 0)),
            "--warmup_ratio",
            str(how.get("warmup_ratio", settings.warmup_ratio)),
        ]
        if run.budgets:
            words += ["--num_of_heads", str(run.budgets[0])]
            words += [] if how.get("auto") else ["--pruning_lr", str(settings.pruning_lr)]
        if "open_share" in how:
            words += [
                "--joint_pruning",
                "--pruning_warmup_updates",
                str(round(share(how["open_share"]) * updates)),
            ]
        if how.get("annealed"):
            cooldown = share(how.get("cooldown_share", settings.cooldown_share))
            words += words_of({**settings.annealing, "cooldown_steps": round(cooldown * updates)})
        return words + words_of(how.get("options", {}))

    def model_file(self, run: Run) -> Path:
        return self.options.runs / run.name / "config.json"

    def tables(self) -> dict[Path, str]:
        """Make table.md and one table.csv a task, or files of the name that the settings have for them."""
        options, total = self.options, self.heads_of_model()
        head = f"Development sets, scores in percent, {len(options.seeds)} seed(s), {total} heads in all. "
        table = getattr(self.settings, "table", "table")
        parts = [f"{head}Made by `make {getattr(self.settings, 'made_by', 'glue')}`.\n"]
        tables = {options.results / f"{table}.md": ""}
        for task in options.tasks:
            name = self.record_name(task)
            expected: dict[Setting, None] = {}
            for run in self.runs_of(options.seeds[0]):
                if run.task == task:
                    how = self.settings.methods[run.method]
                    asked = [kept for kept in run.budgets or (total,) if kept in (*options.budgets, total)]
                    labels = [how[key] for key in ("method", "tuned") if key in how]
                    expected.update({Setting(name, one, k, total): None for one in labels for k in asked})
            folder = options.results / task
            found = load_records(folder) if folder.is_dir() else []
            records = [
                r
                for r in found
                if setting_of(r) in expected and not r.kind.endswith("-michel") and r.seed in options.seeds
            ]
            metric, subsets = self.metric(task)
            rows, columns = table_rows(records, list(expected), subsets, len(options.seeds), metric=metric)
            parts.append(f"## {name}\n\n{markdown_table(rows, columns)}\n")
            tables[folder / f"{table}.csv"] = csv_table(rows, columns)
        tables[options.results / f"{table}.md"] = "\n".join(parts)
        return tables
