"""What the pipelines on GLUE and SQuAD share: their settings, their data, and records of other settings."""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from dsp_plugin.options.numbers import number
from dsp_plugin.records.record import load_record
from dsp_plugin.records.settings import in_both, other_settings

from .base import Plan, needed
from .options import COMMON, Option, choice, flag, place, read_options, read_settings, words_of

SQUAD = "SQuAD"
COMMON_OF_BERT: Mapping[str, Option] = {
    **COMMON,
    "tasks": Option(str, many=True),
    "all_methods": Option(flag, False),  # on SQuAD, too
    "model": Option(),  # folder or hub name of another model
    "data": Option(
        place
    ),  # folder with CoLA/, MRPC/ ... (default: $DSP_DATA_DIR/glue); SQuAD's is the folder squad beside it
    "quick": Option(number("amount"), 0),  # a trial: 2 updates, so many scored examples
}


class BertPlan(Plan):
    """Runs with records below results/NAME/<task>/<run>/ and models below runs/NAME/<task>/<run>/.

    A run has a `task`, `sets(plan)`, where its records are, and a `source` that it starts from, or None.
    """

    name = ""  # of the YAML file and the folders
    more: Mapping[str, Option] = {}  # settings beside the common ones

    def __init__(self, config: Mapping[str, Any]):
        self.bert = read_settings("bert.yaml")
        known = {**COMMON_OF_BERT, **self.more, "tasks": Option(choice(*self.bert.tasks), many=True)}
        options = read_options(config, known)
        self.settings = read_settings(f"{self.name}.yaml", options.settings)
        for key in known:
            if known[key].many and not getattr(options, key):  # by default, those of the YAML file
                setattr(options, key, getattr(self.settings, key))
        self._given = {name.lower() for name, value in config.items() if value not in (None, "")}
        if "seeds" not in self._given:
            options.seeds = getattr(self.settings, "seeds", options.seeds)
        trial = "quick" if options.quick else ""
        options.runs = options.runs or Path("runs", self.name, trial)
        options.results = options.results or Path("results", self.name, trial)
        if options.data is None and os.environ.get("DSP_DATA_DIR"):
            options.data = Path(os.environ["DSP_DATA_DIR"]) / "glue"
        super().__init__(options)

    # ---- tasks

    def sets(self, task: str) -> Sequence[str]:
        """Return the scored sets of a task, each a folder of records."""
        return self.bert.tasks[task].get("sets", ["dev"])

    def seeds_of(self, task: str) -> list[int]:
        """Return a task's seeds: those of the command line, or its own (`seeds_of` of the YAML file)."""
        if self.given("seeds"):
            return self.options.seeds
        return getattr(self.settings, "seeds_of", {}).get(task, self.options.seeds)

    def given(self, name: str) -> bool:
        """Return whether the command line names a setting."""
        return name in self._given

    def batch(self, task: str) -> int:
        return self.bert.tasks[task].get("batch", self.bert.training["per_device_train_batch_size"])

    def updates(self, task: str, epochs: int) -> int:
        return math.ceil(self.bert.tasks[task]["examples"] / self.batch(task)) * epochs

    def record_name(self, task: str) -> str:
        return self.bert.tasks[task].get("name", task)

    def metric(self, task: str) -> tuple[str, Sequence[str]]:
        """Return the task's main metric and the sets it is measured on, as records have them."""
        entry = self.bert.tasks[task]
        sets = [entry["scored"]] if "scored" in entry else self.sets(task)
        return entry["metric"], [
            f"{one}[:{self.options.quick}]" for one in sets
        ] if self.options.quick else sets

    # ---- command lines

    def data_words(self, task: str) -> list[str]:
        """Return the options that name the task's data."""
        data = self.options.data
        if task == SQUAD:
            folder = data.parent / "squad" if data else Path("data/squad")
            train, scored = (str(folder / name) for name in self.bert.tasks[task]["files"])
            names = {
                "train_file": train,
                "predict_file": scored,
                **self.bert.squad_data,
                "record_name": self.record_name(task),
            }
            return words_of(names)
        words = words_of({"task_name": task, **self.bert.data})
        return words + (["--data_dir", str(data / task)] if data and (data / task).is_dir() else [])

    def training_words(self, task: str, learning_rate: float, epochs: int, steps: int = 0) -> list[str]:
        """Return the options of a training that is scored; of a few updates where the user wants a trial.

        Args:
            steps: so many in a trial; 0: as many as all have.
        """
        batch = self.batch(task)
        changes = {
            "per_device_train_batch_size": batch,
            "learning_rate": f"{learning_rate:g}",
            "num_train_epochs": epochs,
        }
        words = words_of({**self.bert.training, **changes})
        if self.options.quick:
            steps = steps or self.bert.quick_steps
            words += words_of({"max_steps": steps, "max_train_samples": steps * batch})
        return words + self.scored_words()

    def scored_words(self) -> list[str]:
        return ["--max_eval_samples", str(self.options.quick)] if self.options.quick else []

    def model(self) -> str:
        """Find the pretrained model: the user's, or a package's folder in the environment of the programs.

        Raises:
            ValueError: the package is not installed.
        """
        if self.options.model is None:
            package = self.bert.model["package"]
            find = f"import importlib.util as u; print(*u.find_spec({package!r}).submodule_search_locations)"
            done = subprocess.run(
                [self.options.python or "python3", "-c", find], capture_output=True, text=True
            )
            if done.returncode and self.listing:
                return self.bert.model["folder"]
            if done.returncode:
                package = package.replace("_", "-")
                raise ValueError(
                    f"the model is in the package {package}: pip install {package}, or give another model"
                )
            self.options.model = str(Path(done.stdout.strip(), self.bert.model["folder"]))
        return self.options.model

    def heads_of_model(self) -> int:
        """Count the heads of the model, by its configuration."""
        if self.options.model is None:
            return self.bert.model["heads"]
        path = Path(self.options.model, "config.json")
        if path.is_file():
            config = json.loads(path.read_text("utf-8"))
            return config["num_hidden_layers"] * config["num_attention_heads"]
        count = "import sys; from transformers import AutoConfig as A; c = A.from_pretrained(sys.argv[1]); "
        count += "print(c.num_hidden_layers * c.num_attention_heads)"
        words = [self.options.python or "python3", "-c", count, self.options.model]
        return int(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)

    def command(self, run: Any, records: Path | None = None, model: str | None = None) -> list[str]:
        """Return the command line of a run.

        Args:
            records: the folder of all records, by default that of the results.
            model: the pretrained model, by default that of `model()`.
        """
        raise NotImplementedError

    def commands(self, run: Any) -> list[list[str]]:
        """Return all command lines of a run, one after the other."""
        return [self.command(run)]

    # ---- what is left

    def complete(self, run: Any) -> bool:
        return not self.missing(run)

    def missing(self, run: Any) -> list[str]:
        """Return the first record that a run lacks, as a list of one; empty where it has all."""
        paths = [self.options.results / run.name / one / "results.json" for one in run.sets(self)]
        return [str(path) for path in paths if not path.is_file()][:1]

    def wanted(self) -> list[str]:
        return [path for run in self.runs for path in self.missing(run)]

    def model_file(self, run: Any) -> Path:
        """Name the file that is there when others can start from this run."""
        raise NotImplementedError

    def source_of(self, run: Any) -> list[str]:
        """Return what a run waits for: the record of the run that it starts from, where that is not trained.

        A clone has the records of others and no models. Then theirs stay, and the source is trained once
        more: awaited is its model.
        """
        source = run.source
        if source is None:
            return []
        awaited = self.missing(source) if source in self.runs or not self.model_file(source).is_file() else []
        return awaited or needed(self.model_file(source))

    # ---- what is refused

    def check(self) -> None:
        """Look for records of other settings before anything runs; raise ValueError where there are some."""
        other = self.other_runs()
        if other:
            advice = (
                "remove these records and models and those made from them, or name other results and runs"
            )
            raise ValueError("\n".join([*other.values(), advice]))

    def check_data(self, tasks: Iterable[str]) -> None:
        """Raise a ValueError where the folder of the data that the user has named has no task of these."""
        own = sorted({*tasks} - {SQUAD})
        folder = self.options.data
        if self.given("data") and own and not any((folder / task).is_dir() for task in own):
            raise ValueError(f"data {folder}: has no folder {' or '.join(own)}; name the one that holds them")

    def check_inputs(self) -> None:
        """Look for the data's folder, SQuAD's files and the model before anything runs.

        Raises:
            ValueError: saying what is missing and how to get it.
        """
        left = self.left()
        self.check_data({run.task for run in left})
        if any(run.task == SQUAD for run in left):
            for name in self.data_words(SQUAD)[1:4:2]:
                if not Path(name).is_file():
                    raise ValueError(
                        f"no {name}: make it with `bash data-prep/download_squad.sh --data_dir "
                        f"{Path(name).parent}` and `python data-prep/squad_devsplit.py "
                        f"{Path(name).parent}/dev-v1.1.json`, or leave {SQUAD} out of the tasks"
                    )
        if left:
            self.model()

    def other_runs(self) -> dict[str, str]:
        """Return {name: how the records of a run, or of one that it starts from, are of other settings}."""
        sources = [run.source for run in self.runs if run.source is not None]
        differing = {run.name: self.differing(run) for run in [*sources, *self.runs]}
        return {
            name: f"{self.options.results / name} is of other settings: {'; '.join(settings)}"
            for name, settings in differing.items()
            if settings
        }

    def compared_model(self) -> str:
        """Name the pretrained model of the command lines that records are compared with."""
        return self.options.model or self.bert.model["folder"]

    def differing(self, run: Any) -> list[str]:
        """Name the settings in which a training in the folder of a run's records differs from its command.

        Compared are the options `compared` of bert.yaml that both sides name. Records without a command, of
        another program, or of a model that was only scored again are not looked at.
        """
        here = self.command(run, model=self.compared_model())
        for path in sorted((self.options.results / run.name).rglob("results.json")):
            try:
                words = shlex.split(load_record(path).command)
            except ValueError:  # damaged: the tables say so
                continue
            if "--do_train" not in words or Path(words[words[0] == "python"]).name != Path(here[0]).name:
                continue
            ours, theirs = values_of(here), values_of(words)
            known = in_both(theirs, ours)
            if found := other_settings(theirs, ours, [name for name in self.bert.compared if name in known]):
                return found
        return []


def share(value: Any) -> float:
    """Read a share such as 1/3."""
    return float(Fraction(str(value)))


def values_of(words: Sequence[str]) -> dict[str, float | str]:
    """Read {option: value}, a number however it is written, a path by its name: records have no folders."""
    return {name[2:]: _value(value) for name, value in zip(words, words[1:]) if name.startswith("--")}


def _value(word: str) -> float | str:
    try:
        value = float(word)
    except ValueError:
        return Path(word).name
    return int(value) if value.is_integer() else value
