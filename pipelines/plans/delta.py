"""Delta-Tuning's combinations and orders, few-shot, on whole training sets, between tasks (delta.yaml)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dsp_plugin.options.numbers import number
from dsp_plugin.records.files.sealed import read_json
from dsp_plugin.records.record import RecordError, load_record
from dsp_plugin.reports.tables.delta_runs import best_by_dev, read_runs

from .base import needed
from .bert import SQUAD, BertPlan
from .delta_runs import FEW, FULL, MAKERS, ORDERS, PARTS, TENFOLD, Run, runs_that_choose, tried
from .delta_tables import tables_of
from .options import Option, choice, words_of

FILE, MASKED, DATA = "task.delta.safetensors", "mlm", "data"
UNKNOWN = "RATE"  # in a command line whose rate is still to be chosen


class DeltaPlan(BertPlan):
    name = "delta"
    more = {
        "parts": Option(choice(*PARTS), many=True),
        "k": Option(number("count")),  # examples a class
        "masked": Option(),  # folder or hub name of a masked language model; none is pretrained then
    }

    def __init__(self, config: Mapping[str, Any]):
        self._rates: dict[tuple[str, str, str], float] = {}
        super().__init__(config)
        asked = self.runs
        self.runs = [run for run in asked if self.in_table(run)]
        if not self.runs:
            names = ", ".join(run.name for run in asked)
            raise ValueError(f"parts {' '.join(self.options.parts)}: none of {names}")

    # ---- runs

    def in_table(self, run: Run) -> bool:
        """Return whether a run belongs to a part and a task that are asked for; others only begin one."""
        return run.part in self.options.parts and run.task in self.tasks_of(run.part)

    def tasks_of(self, part: str) -> list[str]:
        """Return a part's tasks: those of the command line, or its own."""
        own = None if self.given("tasks") else self.settings.parts[part].get("tasks")
        return own or self.options.tasks

    def seeds_in(self, part: str, task: str) -> list[int]:
        """Return a part's seeds on a task: those of the command line, or its own."""
        own = None if self.given("seeds") else self.settings.parts[part].get("seeds")
        return own or self.seeds_of(task)

    @property
    def k(self) -> int:
        return self.options.k or self.settings.k

    def runs_of(self, seed: int) -> Iterator[Run]:
        """Yield the runs of one seed and those that choose the rates, each after what it begins with."""
        if SQUAD in self.options.tasks:
            raise ValueError(f"tasks {SQUAD}: the programs of Delta-Tuning are for GLUE's tasks")
        for part in PARTS:
            for task in self.tasks_of(part):
                yield from runs_that_choose(self, part, task)
                if seed in self.seeds_in(part, task):
                    yield from MAKERS[part](self, task, seed)

    # ---- rates

    def rate(self, run: Run) -> float | None:
        """Return a run's learning rate; None where it has none, or where it is not chosen yet."""
        kind = self.settings.methods[run.last].get("rates")
        if run.rate is not None or kind is None:
            return run.rate
        if run.part == FULL:
            return float(self.settings.full["rates"][kind])
        part = TENFOLD if run.part == TENFOLD else FEW
        key = (part, run.task, run.last)
        if key not in self._rates:
            runs = tried(self, *key)
            if any(self.missing(one) for one in runs):
                return None
            found = [self.options.results / one.name for one in runs]
            best = best_by_dev([one for folder in found for one in read_runs(folder)])
            self._rates[key] = best.about["learning_rate"]
        return self._rates[key]

    def choosers(self, run: Run) -> list[Run]:
        """Return the runs that a run's rate is chosen from; none where it has a given one."""
        if run.rate is not None or run.part == FULL:
            return []
        return tried(self, TENFOLD if run.part == TENFOLD else FEW, run.task, run.last)

    # ---- command lines

    def masked(self) -> str:
        """Name the masked language model that all runs begin with."""
        return self.options.masked or str(self.options.runs / MASKED)

    def compared_model(self) -> str:
        return self.masked()

    def batch(self, task: str) -> int:
        """Return the examples of an update on a whole training set."""
        return self.settings.full["batch"]

    def scored_words(self) -> list[str]:
        few = str(self.options.quick)
        return ["--max_eval_samples", few, "--max_predict_samples", few] if self.options.quick else []

    def command(self, run: Run, records: Path | None = None, model: str | None = None) -> list[str]:
        """Return the command line of a run; its learning rate is RATE while that is not chosen."""
        how, options = self.settings.methods[run.last], self.options
        words = ["scripts/delta/run.py", "--model_name_or_path", model or self.masked()]
        if run.part == FULL:
            words += self.data_words(run.task)
        else:
            folder = self._samples(run, run.seed)
            words += words_of({"task_name": run.task, **self.bert.data, "data_dir": folder, "num_k": run.k})
        words += ["--tag", run.part, "--seed", str(run.seed)]
        words += ["--output_dir", str(options.runs / run.name)]
        words += ["--record_dir", str((records or options.results) / run.name)]
        words += words_of({name: how[name] for name in ("few_shot_type", "training_params") if name in how})
        words += ["--delta_checkpoint", str(options.runs / run.source.name)] if run.source else []
        return [*words, *self._training(run)]

    def _training(self, run: Run) -> list[str]:
        """Return the options of a run's training and of what is scored after it."""
        scored = ["--do_eval"] if run.part == FULL else ["--do_eval", "--do_predict"]
        rate = self.rate(run)
        if "rates" not in self.settings.methods[run.last]:
            batch = str(self.settings.training["per_device_eval_batch_size"])
            return [*scored, "--per_device_eval_batch_size", batch, *self.scored_words()]
        if run.part == FULL:
            settings = self.settings.full
            words = self.training_words(run.task, rate, settings["epochs"])
            most = settings["most_updates"]
            whole = self.updates(run.task, settings["epochs"]) <= most or self.options.quick
            return words if whole else [*words, "--max_steps", str(most)]
        training = {**self.settings.training, "metric_for_best_model": f"eval_{self.metric(run.task)[0]}"}
        if run.part == ORDERS:
            training["max_steps"] = self.settings.orders["max_steps"]
            if run.method.count("-then-") + 1 < len(self.settings.orders["methods"]):
                training |= {"eval_strategy": "no", "load_best_model_at_end": False}
                del training["metric_for_best_model"]
        if self.options.quick:
            training |= dict.fromkeys(("max_steps", "eval_steps", "save_steps"), self.bert.quick_steps)
        training["learning_rate"] = UNKNOWN if rate is None else f"{rate:g}"
        return [*scored, *words_of(training), *self.scored_words()]

    def pretraining(self) -> list[str]:
        """Return the command line that gives the base a masked-LM head."""
        glue = self.options.data or Path("data/glue")
        captions = glue.parent / "multi30k"
        words = ["scripts/delta/pretrain_mlm.py", "--model_name_or_path", self.model()]
        words += ["--glue_dir", str(glue)]
        if (captions / "train.en").is_file():
            words += ["--text_files", str(captions / "train.en")]
            others = sorted(path for path in captions.glob("*.en") if path.name != "train.en")
            words += ["--left_out_files", *map(str, others)] if others else []
        words += ["--output_dir", self.masked(), "--record_dir", str(self.options.results / MASKED)]
        words += words_of(self.settings.pretraining)
        return words + (["--max_steps", str(self.bert.quick_steps)] if self.options.quick else [])

    def sampling(self, mode: str, task: str) -> list[str]:
        """Return the command line that draws a task's few-shot data of all seeds."""
        words = ["scripts/delta/tools/generate_k_shot_data.py", "--mode", mode, "--task", task]
        words += ["--data_dir", str(self.options.data or Path("data/glue"))]
        words += ["--output_dir", str(self.options.runs / DATA), "--k", str(self.k)]
        return [*words, "--seed", *map(str, self.drawn())]

    def drawn(self) -> list[int]:
        """Return the seeds that are drawn: the published ones in their order, then others."""
        every = [*self.settings.drawn, self.settings.sweep_seed, *self.options.seeds]
        own = [seed for part in self.settings.parts.values() for seed in part.get("seeds", [])]
        return list(dict.fromkeys([*every, *own]))

    def commands(self, run: Run) -> list[list[str]]:
        return [self.command(run)]

    # ---- what is left, and what it waits for

    def model_file(self, run: Run) -> Path:
        return self.options.runs / run.name / FILE

    def _samples(self, run: Run, seed: int) -> Path:
        mode = "k-shot-10x" if run.part == TENFOLD else "k-shot"
        return self.options.runs / DATA / mode / run.task / f"{run.k}-{seed}"

    def source_of(self, run: Run) -> list[str]:
        """Return what a run waits for: the base, its samples, its rate's choice, the run it begins with."""
        awaited = [] if self.options.masked else needed(Path(self.masked(), "config.json"))
        if run.part != FULL and needed(self._samples(run, run.seed) / "train.tsv"):
            files = [self._samples(run, seed) / "train.tsv" for seed in self.drawn()]
            awaited += [str(path) for path in files if not path.is_file()][:1]
        awaited += [path for one in self.choosers(run) for path in self.missing(one)]
        return awaited + super().source_of(run)

    # ---- what is refused

    def check(self) -> None:
        """Raise as `BertPlan.check`, and where the base is not the one that the records are of."""
        super().check()
        if not self.options.masked and (message := self._other_base()):
            raise ValueError(message)

    def _other_base(self) -> str:
        """Say how the base differs from the one that was recorded; empty where it does not."""
        path = self.options.results / MASKED / "results.json"
        if not path.is_file() or not self.left():
            return ""
        advice = "name other results and runs, or remove these records"
        try:
            noted = load_record(path).extra.get("weights")
        except RecordError as error:
            return str(error)
        files = Path(self.masked(), "checksums.json")
        if not files.is_file():
            return f"no {self.masked()}, the base of the records in {self.options.results}: {advice}"
        found = {name: one["sha256"] for name, one in read_json(files)["files"].items()}
        if all(found.get(name) == known for name, known in (noted or {}).items()):
            return ""
        return f"{self.masked()} is not the base of the records in {self.options.results}: {advice}"

    def check_inputs(self) -> None:
        """Look for the official files and the pretrained model before anything runs.

        Raises:
            ValueError: saying what is missing and how to get it.
        """
        left = self.left()
        glue = self.options.data or Path("data/glue")
        few = {run.task for run in left if run.part != FULL}
        for task in [one for one in self.options.tasks if one in few]:
            for name in ("train.tsv", *(f"{one}.tsv" for one in self.sets(task))):
                if not (glue / task / name).is_file():
                    raise ValueError(
                        f"no {glue / task / name}: `python data-prep/download_glue_data.py --data_dir {glue} "
                        f"--task {task}` fetches it, or leave {task} out of the tasks"
                    )
        if left and not self.options.masked and not Path(self.masked(), "config.json").is_file():
            self.model()

    def differing(self, run: Run) -> list[str]:
        """Name settings as `BertPlan.differing`; a rate that is still to be chosen differs from none."""
        return [line for line in super().differing(run) if UNKNOWN not in line]

    # ---- tables

    def tables(self) -> dict[Path, str]:
        return tables_of(self)
