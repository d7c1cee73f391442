"""The texts of two domains, and the rows of the table that compares models on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsp_plugin.records.record import Record
from dsp_plugin.reports.tables.rows import markdown_table, signature_notes

from .options import ROOT

PACK, UPDATE, DELTA = (f"task.{kind}.safetensors" for kind in ("diff", "dsee", "delta"))


@dataclass(frozen=True)
class Domain:
    """A text in the subwords of the base.

    Attributes:
        whole: folder of its splits before they are cut; text: of what is used; data: binarised.
    """

    name: str
    text: Path
    whole: Path
    data: Path

    @classmethod
    def of(cls, name: str, home: str) -> Domain:
        if name == home == "multi30k":  # as mt.smk has it
            return cls(name, Path("data/multi30k"), Path("data/multi30k"), Path("data-bin/multi30k"))
        label = f"{name}_as_{home}" if name != home else f"{name}_short"
        return cls(name, Path("data", label), Path("data", f"{label}_whole"), Path("data-bin", label))

    @property
    def prepared(self) -> Path:
        return ROOT / self.data / "prepared.json"


@dataclass(frozen=True)
class Row:
    """A row of the table: a model file, perhaps with a pack, a DSEE file or a delta file in it.

    `awaited` is there when all are.
    """

    name: str
    method: str
    path: Path
    awaited: Path
    pack: Path | None = None
    update: Path | None = None
    delta: Path | None = None


def table_text(found: Sequence[Record], order: Sequence[str], domains: Sequence[str]) -> str:
    """Make the table: a row a method in this order, its BLEU on each domain, and how BLEU was measured."""
    records = [record for record in found if record.kind == "mt-bleu"]
    rows = []
    for method in dict.fromkeys(record.method for record in records):
        here = {record.name.split(": ")[-1]: record for record in records if record.method == method}
        extra = next(iter(here.values())).extra
        file = next((extra[name] for name in ("diff", "dsee", "delta") if extra.get(name)), {})
        row = {"method": method, "numbers stored": file.get("positions", ""), "bytes": file.get("bytes", "")}
        for domain in domains:
            metric = here[domain].metric("BLEU", "test") if domain in here else None
            row[f"BLEU {domain}"] = metric.value if metric else "not measured"
        rows.append(row)
    rows.sort(key=lambda row: order.index(row["method"]) if row["method"] in order else len(order))
    columns = ["method", *(f"BLEU {domain}" for domain in domains), "numbers stored", "bytes"]
    return markdown_table(rows, columns) + "\n\n" + "\n".join(signature_notes(records)) + "\n"
