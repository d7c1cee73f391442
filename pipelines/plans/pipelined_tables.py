"""The tables of pipelined.yaml: BLEU of every choice by seed, and the new recipe beside its baselines."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsp_plugin.records.record import Record, find_records
from dsp_plugin.records.sentences import SENTENCES_NAME
from dsp_plugin.reports.tables.rows import PValue, Row, markdown_table, signature_notes

from .mt import Run

if TYPE_CHECKING:
    from .pipelined import PipelinedPlan


@dataclass(frozen=True)
class Pair:
    """Two scores of the same sentences: those of a run, and those of one that it is compared with.

    Attributes:
        scored: the set, with "-tuned" where both were tuned.
    """

    run: Run
    other: Run
    scored: str
    record: Path
    other_record: Path

    @property
    def name(self) -> str:
        return f"{self.run.name} and {self.other.name}, {self.scored}"

    def content(self) -> str:
        """Return what tells these scores from others; empty where one of them is not there."""
        files = [path.parent / SENTENCES_NAME for path in (self.record, self.other_record)]
        if not all(path.is_file() for path in (*files, self.record, self.other_record)):
            return ""
        return "sha256:" + hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    def p(self, tests: Mapping[str, Mapping[str, Any]]) -> float | None:
        """Return the p-value that was noted for just these scores; None where none was."""
        noted = tests.get(self.name)
        return noted["p"] if noted and noted["content"] == self.content() else None


def records_of(plan: PipelinedPlan) -> dict[Path, Record]:
    folder = plan.options.results / plan.model
    return dict(find_records(folder)) if folder.is_dir() else {}


def bleu_of(record: Record | None) -> float | None:
    """Return a record's BLEU; None where there is no record, or none of a whole set."""
    values = [metric.value for metric in record.metrics if metric.name == "BLEU"] if record else []
    return values[0] if len(values) == 1 else None


def tables_text(plan: PipelinedPlan, tests: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the page; `tests` as `Pair.p` takes them."""
    records = records_of(plan)
    sets = ", ".join(f"{name} is {file}" for name, file in plan.settings.sets.items())
    seeds = ", ".join(map(str, plan.options.seeds))
    rows = _score_rows(plan, records)
    compared = _comparison_rows(plan, records, tests)
    scores = [record for record in records.values() if record.kind == "mt-bleu"]
    return (
        f"Multi30k de-en; {sets}. One model of stock fairseq's, 3+3 layers, "
        f"{plan.settings.models[plan.model]['heads']} heads; seeds {seeds} are those of the choice of heads "
        "and of the tuning. Made by `make pipelined`.\n\n"
        f"{markdown_table(rows, list(rows[0]))}\n\n"
        "Compared sentence by sentence, equal seeds (paired bootstrap, 1,000 samples): the difference in "
        "BLEU, and how likely one so large is if there is none.\n\n"
        f"{markdown_table(compared, list(compared[0]) if compared else [])}\n\n"
        + "".join(f"{line}\n" for line in signature_notes(scores))
    )


def _score_rows(plan: PipelinedPlan, records: Mapping[Path, Record]) -> list[Row]:
    """Make a row of every method, number of heads, and before and after tuning."""
    total, rows = plan.settings.models[plan.model]["heads"], []
    every_seed: dict[tuple[int | None, str, str], list[Run]] = {}
    for seed in plan.options.seeds:
        for run in plan.runs_of(seed):
            for key, suffix in (("method", ""), ("tuned", "-tuned")):
                if key in plan.how(run):
                    label = plan.how(run)[key]
                    every_seed.setdefault((run.budget, suffix, label), []).append(run)
    # all of a number of heads together, those before tuning first
    place = {None: -1, **{budget: number for number, budget in enumerate(plan.budgets)}}
    for (budget, suffix, label), runs in sorted(every_seed.items(), key=lambda e: (place[e[0][0]], e[0][1])):
        row: dict[str, Any] = {"method": label, "K": f"{total if budget is None else budget}/{total}"}
        once = len(set(runs)) == 1 and plan.how(runs[0]).get("once")
        for subset in plan.settings.sets:
            values = [bleu_of(records.get(plan.record(run, subset + suffix))) for run in runs]
            there = [value for value in values if value is not None]
            row[f"BLEU {subset}"] = statistics.fmean(there) if there else None
            for seed, value in zip(plan.options.seeds, values):
                row[f"{subset}, seed {seed}"] = "" if once else value
        rows.append(row)
    return rows


def _comparison_rows(
    plan: PipelinedPlan, records: Mapping[Path, Record], tests: Mapping[str, Mapping[str, Any]]
) -> list[Row]:
    """Make a row of every number of heads, baseline and set, with the difference and p of every seed."""
    rows: dict[tuple[str, str, int | None, str], dict[str, Any]] = {}
    for pair in plan.pairs():
        suffix = "tuned" if pair.scored.endswith("-tuned") else "method"
        mine, other = plan.how(pair.run)[suffix], plan.how(pair.other)[suffix]
        subset = pair.scored.removesuffix("-tuned")
        row = rows.setdefault(
            (mine, other, pair.run.budget, subset),
            {"method": mine, "K": pair.run.budget, "with": other, "on": subset},
        )
        values = [bleu_of(records.get(path)) for path in (pair.record, pair.other_record)]
        p = pair.p(tests)
        row[f"difference, seed {pair.run.seed}"] = None if None in values else f"{values[0] - values[1]:+.2f}"
        row[f"p, seed {pair.run.seed}"] = None if p is None else PValue(p)
    return list(rows.values())
