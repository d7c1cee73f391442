"""The sentences that a report opens with: the best method at each budget beside the model it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dsp_plugin.reports.tables.diffs import FULL, LAST_LAYER, mean_of
from dsp_plugin.reports.tables.rows import PValue, Row, cell_text
from dsp_plugin.reports.tables.short import is_pruned

CAVEAT = (
    "The best method of a budget is picked by the very score that is shown, which flatters it. p says how "
    "likely so large a difference is on these test sentences if there is none, and nothing of other seeds."
)
_LOWER_IS_BETTER = {"loss", "nll", "ppl", "perplexity", "ter", "wer", "cer", "mse", "rmse", "mae", "error"}


@dataclass(frozen=True)
class Finding:
    """The best method of one budget.

    Args:
        budget: as a reader says it, "12 of 24 heads".
        row: the method's row of the table.
        methods: how many methods were scored with this budget.
    """

    budget: str
    row: Row
    methods: int


def head_findings(rows: Iterable[Row], score: str, baseline: str) -> list[Finding]:
    """Find the best method of each number of heads, and of groups of neurons beside them; most heads first.

    Args:
        rows: of a setting, see `tables.rows.table_rows`.
        score: the column that decides.
        baseline: a method; it is no candidate.
    """
    pruned = [row for row in rows if row["method"] != baseline and is_pruned(row)]
    pruned.sort(key=lambda row: -int(row["K"].partition("/")[0]))
    return _best(pruned, score, _units)


def _units(row: Row) -> str:
    text = "{} of {} heads".format(*row["K"].split("/"))
    if "/" in row.get("groups", ""):
        text += " and {} of {} groups of neurons".format(*row["groups"].split("/"))
    return text


def diff_findings(rows: Iterable[Row], score: str) -> list[Finding]:
    """Find the best diff of each density, the densest first; only rows of the last stage are candidates."""
    last = [row for row in rows if row["density"] is not None and "," not in row["method"]]
    diffs = [row for row in last if row["method"] not in (FULL, LAST_LAYER)]
    diffs.sort(key=lambda row: -float(row["density"].rstrip("%")))
    return _best(diffs, score, lambda row: f"{row['density']} of the weights")


def _best(rows: Iterable[Row], score: str, budget: Callable[[Row], str]) -> list[Finding]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if mean_of(row.get(score)) is not None:
            groups.setdefault(budget(row), []).append(row)
    sign = -1 if score.split(" ")[0].lower() in _LOWER_IS_BETTER else 1
    return [
        Finding(name, max(group, key=lambda row: sign * mean_of(row[score])), len(group))
        for name, group in groups.items()
    ]


def sentences(findings: Sequence[Finding], rows: Sequence[Row], score: str, baseline: str) -> list[str]:
    """Say what was found: the baseline's score, a sentence a budget, and of how many seeds it is.

    Args:
        findings: of these rows.
        rows: the whole table.
        score: the column that decided; a column "p SUBSET" beside it has the p of each row.
        baseline: a method.
    """
    bases = [row for row in rows if row["method"] == baseline and mean_of(row.get(score)) is not None]
    lines = [f"{row['method']}{_heads(row)}: {score} {cell_text(row[score])}." for row in bases]
    lines = lines or [f"{score}; there is no such score of {baseline}."]
    p_column = f"p {score.partition(' ')[2].partition(' (')[0]}".rstrip()
    tested = any(isinstance(finding.row.get(p_column), PValue) for finding in findings)
    for finding in findings:
        row = finding.row
        same = [base for base in bases if base.get("K") == row.get("K")] if len(bases) > 1 else bases
        among = f", the best of {finding.methods} methods," if finding.methods > 1 else ""
        text = f"{finding.budget}: {row['method']}{among} has {cell_text(row[score])}"
        if same:
            text += _compared(mean_of(row[score]) - mean_of(same[0][score]), baseline)
            p = row.get(p_column)
            text += f" (p = {p:.3f})" if isinstance(p, PValue) else " (not tested)" * tested
        size, share = row.get("bytes"), row.get("% of a full copy")
        if mean_of(size) is not None and mean_of(share) is not None:
            text += f"; its file has {cell_text(size)} bytes, {cell_text(share)}% of a full copy"
        lines.append(text + ".")
    runs = {row["runs"] for row in [finding.row for finding in findings] + bases}
    seeds = "One seed each: what another seed would give is not known."
    if runs != {1}:
        seeds = f"Means over seeds, {' or '.join(map(str, sorted(runs)))} of each method."
    return [*lines, seeds if tested else f"{seeds} Differences were not tested for significance."]


def _heads(row: Row) -> str:
    return f", {row['K'].replace('/', ' of ')} heads" if "/" in row.get("K", "") else ""


def _compared(difference: float, baseline: str) -> str:
    if abs(difference) < 0.005:
        return f", as {baseline}"
    return f", {cell_text(abs(difference))} {'above' if difference > 0 else 'below'} {baseline}"
