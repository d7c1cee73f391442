"""What all pipelines have: runs by name, which of them are left, and tables that follow the records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def needed(path: str | Path) -> list[str]:
    """Return `path` as the input of a rule, unless it is there.

    A clone has records and no checkpoints, and files have the times of their checkout: what is there is done,
    whatever its age and whatever it was made from.
    """
    return [] if Path(path).is_file() else [str(path)]


class Plan:
    """The runs that the options ask for.

    A run has a `name`, which is its folder.

    Attributes:
        known: name -> run, of all methods; runs: those that are asked for.
        listing: whether runs are only listed, for which no model need be there.
    """

    listing = False

    def __init__(self, options: SimpleNamespace):
        """Make the runs of every seed; raise ValueError where the options ask for none."""
        self.options = options
        self.known: dict[str, Any] = {run.name: run for seed in options.seeds for run in self.runs_of(seed)}
        # densities that are written alike are one run
        self.runs = [run for name, run in self.known.items() if name.startswith(tuple(options.only))]
        if not self.runs:
            names = ", ".join(run.name for run in self.runs_of(1))
            raise ValueError(f"only {' '.join(options.only)}: no such run; runs: {names}")

    def runs_of(self, seed: int) -> Sequence[Any]:
        """Return all runs of one seed, each after the one that it starts from."""
        raise NotImplementedError

    def complete(self, run: Any) -> bool:
        """Return whether a run has all its records."""
        raise NotImplementedError

    def left(self) -> list[Any]:
        return [run for run in self.runs if not self.complete(run)]

    def wanted(self) -> list[str]:
        """Return the records that are missing, one of each program's start, which Snakemake is asked for."""
        raise NotImplementedError

    def check(self) -> None:
        """Look at settings and records before the first run; raise ValueError where one cannot be."""

    def check_inputs(self) -> None:
        """Look at what the runs read; raise ValueError where it is missing. A listing does without this."""

    def tables(self) -> dict[Path, str]:
        """Return {path: text} of every table, from the records alone; what was not run says so."""
        raise NotImplementedError

    def table_files(self) -> list[str]:
        """Return the tables, where they say what the records say; none where one has to be written."""
        if self.left() or any(
            not path.is_file() or path.read_bytes() != text.encode() for path, text in self.tables().items()
        ):
            return []
        return [str(path) for path in self.tables()]

    def write_tables(self) -> str:
        """Write the tables, and return the first of them, that for people."""
        from dsp_plugin.records.files.whole import write_text

        tables = self.tables()
        for path, text in tables.items():
            write_text(path, text)
        return next(iter(tables.values()))
