"""What every part of a report is given: where pictures go, how tables are written, what is kept of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outputs:
    """Where a report puts what it makes.

    Attributes:
        folder: of the PNG files.
        write_table: writes a table in all formats and returns it as HTML, see `report`.
        files, problems: the report's, to which pictures, and what could not be drawn and why, are added.
    """

    folder: Path
    write_table: Callable[..., str]
    files: list[Path]
    problems: list[str]


class ReportPart:
    """The part of a report that is about one system."""

    def __init__(self, outputs: Outputs) -> None:
        self.folder, self.write_table = outputs.folder, outputs.write_table
        self.files, self.problems = outputs.files, outputs.problems
