"""The table of all attention classes of Transformers: right under gates and surgery, refused, or wrong."""

from __future__ import annotations

import csv
import io
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import transformers
from family_checks import NOT_BUILT, REFUSED, RIGHT, WRONG, Result, check_family, check_neurons
from family_models import is_named_attention
from worker_pool import each

from dsp_plugin.records.files.whole import write_text

# a class that occurs in several models has the first of these that one of them shows
ORDER = (WRONG, RIGHT, REFUSED, NOT_BUILT)
SECONDS = 90  # a family


@dataclass(frozen=True)
class Row:
    """One attention class.

    Attributes:
        name: the folder of its model in Transformers, and the class.
        status: one of those of `family_checks`.
        model: the model class it was seen in.
        difference: the largest to the oracle; None where nothing was compared.
        reason: the reason of the status, or the error; for a right one what could not be checked.
    """

    name: str
    status: str
    model: str = ""
    heads: int = 0
    difference: float | None = None
    reason: str = ""


def families() -> list[str]:
    """Return the model types of Transformers."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return list(CONFIG_MAPPING_NAMES)


def check_all(
    names: Sequence[str], processes: int = 2, tell: Callable[[str], None] = print, neurons: bool = False
) -> list[Result]:
    """Check families side by side, and report the progress."""
    check = check_neurons if neurons else check_family
    results: list[Result] = []
    started, reported = time.monotonic(), 0.0
    for number, (family, found, wrong) in enumerate(each(check, names, processes, SECONDS), 1):
        found = found if found is not None else [Result(family, "", reason=wrong)]
        results += found
        for result in found:
            if result.status == WRONG:
                tell(f"WRONG {result.family} ({result.model}): {result.reason}")
        if time.monotonic() - reported > 15 or number == len(names):
            reported = time.monotonic()
            tell(
                f"{number} of {len(names)} families, {reported - started:.0f} s: "
                f"{summary([r.status for r in results])}"
            )
    return results


def rows_of(results: Sequence[Result], universe: dict[str, str]) -> list[Row]:
    """Return one row for each class, the faulty ones first.

    Args:
        universe: {class: its file} for all classes; those that no model showed get a row, too.
    """
    rows: dict[str, Row] = {}
    for result in sorted(results, key=lambda result: ORDER.index(result.status)):
        for name in result.classes:
            reason = result.reason if result.status != RIGHT else "; ".join(result.notes)
            difference = result.largest if result.differences else None
            rows.setdefault(name, Row(name, result.status, result.model, result.heads, difference, reason))
    wrappers = {name for result in results for name in result.wrappers}
    reasons = {
        result.family.replace("-", "_"): result.reason
        for result in results
        if result.reason and not result.classes
    }
    for name in universe.keys() - rows.keys() - wrappers:
        folder = name.partition(".")[0]
        close = [reason for family, reason in reasons.items() if family.startswith(folder)]
        rows[name] = Row(name, NOT_BUILT, reason=close[0] if close else "no small model has it")
    return sorted(
        rows.values(), key=lambda row: ((WRONG, NOT_BUILT, REFUSED, RIGHT).index(row.status), row.name)
    )


def attention_classes() -> dict[str, str]:
    """Return {"bert.BertSelfAttention": file} for every attention class whose source has a `forward`."""
    found: dict[str, str] = {}
    for path in sorted((Path(transformers.__file__).parent / "models").glob("*/modeling_*.py")):
        for name, body in re.findall(
            r"^class (\w+)\(.*?\):\n(.*?)(?=^class |^@|\Z)", path.read_text(), re.S | re.M
        ):
            if "def forward" in body and (is_named_attention(name) or "ALL_ATTENTION_FUNCTIONS" in body):
                found[f"{path.parent.name}.{name}"] = path.name
    return found


def summary(statuses: Sequence[str]) -> str:
    counts = Counter(statuses)
    return (
        f"right {counts[RIGHT]}, refused {counts[REFUSED]}, wrong {counts[WRONG]}, not built "
        f"{counts[NOT_BUILT]}"
    )


def write_tables(rows: Sequence[Row], folder: Path, neurons: bool = False) -> tuple[Path, Path]:
    """Write classes.csv and classes.md; neurons.csv and neurons.md of groups of neurons."""
    name = "neurons" if neurons else "classes"
    title = (
        "Models of Transformers with groups of neurons" if neurons else "Attention classes of Transformers"
    )
    csv_path, text_path = folder / f"{name}.csv", folder / f"{name}.md"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("class", "status", "largest difference", "heads", "model", "told"))
    for row in rows:
        difference = "" if row.difference is None else f"{row.difference:.1e}"
        writer.writerow((row.name, row.status, difference, row.heads or "", row.model, row.reason))
    write_text(csv_path, text.getvalue())
    lines = [
        f"# {title} under gates and surgery",
        "",
        f"Transformers {transformers.__version__}. {summary([row.status for row in rows])}.",
        "",
        "| class | status | largest difference | in | why, or what was not looked at |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        difference = "" if row.difference is None else f"{row.difference:.1e}"
        lines.append(
            f"| {row.name} | {row.status} | {difference} | {row.model} | {row.reason.replace('|', '/')} |"
        )
    write_text(text_path, "\n".join(lines) + "\n")
    return csv_path, text_path
