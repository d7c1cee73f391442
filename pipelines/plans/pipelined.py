"""The choice of heads of one trained model, by every method, tuned alike and not at all (pipelined.yaml)."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsp_plugin.options.numbers import number
from dsp_plugin.records.files.sealed import read_json, write_json
from dsp_plugin.records.settings import other_settings, refusal

from .base import needed
from .mt import MTPlan, Run
from .options import FOLDER, ROOT, Option, place
from .pipelined_tables import Pair, tables_text

BASE_SEED = 1
"""The seed of the one model that all choices start from."""


class PipelinedPlan(MTPlan):
    """Checkpoints are below runs/pipelined/<model>/, records below results/multi30k/<model>/, as in `MTPlan`.

    The seeds are those of the choices and of the tuning.
    """

    name, folder_of_runs = "pipelined", "runs/pipelined"
    more: Mapping[str, Option] = {
        "seeds": Option(number("seed"), [1, 2], many=True),
        "budgets": Option(number("amount"), [], many=True),
        "unpruned": Option(place),  # a trained model in the place of one that is trained here
        "trained_epochs": Option(number("count")),
    }

    def __init__(self, config: Mapping[str, Any]):
        self.config = config  # for the program that compares
        super().__init__(config)
        self.known.update({run.name: run for run in map(self.sweep_of, self.runs) if run is not None})

    @property
    def model(self) -> str:
        return next(iter(self.settings.models))

    @property
    def budgets(self) -> list[int]:
        return self.options.budgets or self.settings.budgets

    def runs_of(self, seed: int) -> list[Run]:
        whole = [name for name, how in self.settings.methods.items() if how.get("whole")]
        choices = [name for name in self.settings.methods if name not in whole]
        return [
            *(Run(self.model, name, BASE_SEED if name == "unpruned" else seed) for name in whole),
            *(Run(self.model, name, seed, budget) for budget in self.budgets for name in choices),
        ]

    # ---- files

    def unpruned_of(self, run: Run) -> Run:
        return Run(self.model, "unpruned", BASE_SEED)

    def unpruned(self, run: Run) -> Path:
        return self.options.unpruned or super().unpruned(run)

    def source_of(self, run: Run) -> list[str]:
        return [] if self.options.unpruned else super().source_of(run)

    def sweep_of(self, run: Run) -> Run | None:
        """Return the sweep of all budgets that a run takes its heads from; None where it does without one."""
        if run.budget is None or not self.how(run).get("one_sweep"):
            return None
        return Run(self.model, run.method, run.seed, swept=tuple(self.budgets))

    def sweep_folder(self, run: Run) -> Path:
        return self.folder(run) / "sweep"

    def trained(self, run: Run) -> list[str]:
        """Return what heads are taken out of; with it the sweep that says which, where one serves several."""
        if self.options.unpruned and run == self.unpruned_of(run):
            return []
        sweep = self.sweep_of(run)
        return needed(self.sweep_folder(sweep) / "results.json") if sweep else super().trained(run)

    def settings_of(self, run: Run) -> Mapping[str, Any]:
        how, found = self.how(run), {}
        if "most_steps" in how and run.budget is not None:
            heads = self.settings.models[run.model]["heads"]
            found["STEP"] = max(1, -(-(heads - run.budget) // how["most_steps"]))
        sweep = run if run.swept else self.sweep_of(run)
        if sweep:
            found["SWEEP"] = self.sweep_folder(sweep)
            found["BUDGETS"] = " ".join(map(str, sweep.swept))
            found["K"] = run.budget if run.budget is not None else min(sweep.swept)
        if run.method == "unpruned":
            found["EPOCHS"] = self.epochs
        return found

    @property
    def epochs(self) -> int:
        return self.options.trained_epochs or self.settings.models[self.model]["epochs"]

    # ---- what is refused

    def noted(self) -> dict[str, Any]:
        """Return what says which model all choices are of."""
        if not self.options.unpruned:
            return {"epochs": self.epochs}
        with open(self.options.unpruned, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        return {"unpruned": self.options.unpruned.name, "content": f"sha256:{content}"}

    def _notes(self) -> list[Path]:
        return [folder / self.model / "settings.json" for folder in (self.options.runs, self.options.results)]

    def check(self) -> None:
        """Look at the folders, and whether what they hold is of this model, before the first run.

        Raises:
            ValueError: naming what cannot be; choices of another model, beside which more are asked for.
        """
        super().check()
        if self.options.unpruned and not self.options.unpruned.is_file():
            raise ValueError(f"unpruned {self.options.unpruned}: no such file")
        if not self.left():
            return
        for path in self._notes():
            there = read_json(path) if path.is_file() else None
            if there and (differing := other_settings(there, self.noted())):
                remedy = "give the same model (unpruned), or name other runs and results"
                raise refusal(f"{path.parent} holds choices of heads of another model,", differing, remedy)

    def note_settings(self) -> None:
        """Note which model the folders are of; the file stays as it is where it says so already."""
        for path in self._notes() if self.left() else []:
            if not path.is_file():
                write_json(path, json.dumps(self.noted(), indent=1) + "\n")

    # ---- tables

    @property
    def tests_file(self) -> Path:
        """Name the file of the p-values, which only an environment with sacreBLEU can work out."""
        return self.options.results / "pipelined-tests.json"

    def pairs(self) -> list[Pair]:
        """Return every two scores of one seed that are compared: the new recipe's with each baseline's."""
        found = []
        for compared in self.settings.compared:
            name, baseline = compared["run"], compared["with"]
            whole = self.settings.methods[baseline].get("whole")
            for budget in self.budgets:
                for seed in self.options.seeds:
                    run = Run(self.model, name, seed, budget)
                    other = Run(self.model, baseline, seed, None if whole else budget)
                    common = [scored for scored in self.scored(run) if scored in self.scored(other)]
                    found += [Pair(run, other, s, self.record(run, s), self.record(other, s)) for s in common]
        return found

    def _tests(self) -> dict[str, Any]:
        return read_json(self.tests_file) if self.tests_file.is_file() else {}

    def untested(self) -> list[Pair]:
        """Return the pairs whose scores are there and whose p-value is not, or is of other scores."""
        tests = self._tests()
        return [pair for pair in self.pairs() if pair.p(tests) is None and pair.content()]

    def table_files(self) -> list[str]:
        return [] if self.untested() else super().table_files()

    def tables(self) -> dict[Path, str]:
        return {self.options.results / "pipelined.md": tables_text(self, self._tests())}

    def write_tables(self) -> str:
        """Compare what was not compared yet, then write the table."""
        if self.untested():
            command = [self.options.python or "python3", str(FOLDER / "compare.py")]
            for name, value in self.config.items():
                words = map(str, value) if isinstance(value, (list, tuple)) else [str(value)]
                command.append(f"{name}={' '.join(words)}")
            subprocess.run(command, cwd=ROOT, check=True)
        return super().write_tables()
