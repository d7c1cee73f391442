"""What the demo leaves: a table, two pictures, a record, six lines; every number from records and speeds."""

from __future__ import annotations

import os
from collections.abc import Mapping

from dsp_plugin.records.files.whole import write_text
from dsp_plugin.records.kept_heads import mask_of
from dsp_plugin.records.record import Metric, Record, load_record, new_record, save_record
from dsp_plugin.reports.pictures.bars import comparison_png
from dsp_plugin.reports.pictures.heads import head_map_png
from dsp_plugin.reports.tables.rows import markdown_table

# name -> pipeline, its part of the folder of records, what the table calls it
MODELS = {
    "unpruned": ("unpruned", "", "all heads"),
    "unpruned-tuned": ("unpruned", "-tuned", "all heads, tuned"),
    "masked": ("joint", "", "a mask on the heads"),
    "pruned": ("joint", "-pruned", "dead heads removed"),
    "pruned-tuned": ("joint", "-tuned", "dead heads removed, tuned"),
}
COLUMNS = ["model", "updates", "heads", "BLEU", "parameters", "sentences/s"]
NEXT = {
    "embedded": "make multi30k (the same on real text); docs/fairseq.md (your own model)",
    "multi30k": "docs/fairseq.md (your own model); docs/results.md (every method and budget)",
}


def load_scores(folders: Mapping[str, str], subset: str) -> dict[str, Record]:
    """Read the records of the models' scores, which the pipelines wrote: name of `MODELS` -> record.

    Args:
        folders: pipeline -> its folder.
    """
    return {
        name: load_record(os.path.join(folders[script], "records", subset + part, "results.json"))
        for name, (script, part, _) in MODELS.items()
    }


def updates_of(records: Mapping[str, Record]) -> dict[str, tuple[int, int]]:
    """Return the updates of training and of tuning that the records of each tuned model tell of.

    Raises:
        ValueError: the two models had not the same ones, so that their scores cannot be compared.
    """
    updates = {
        name: (records[name].updates, records[f"{name}-tuned"].updates) for name in ("unpruned", "pruned")
    }
    if updates["unpruned"] != updates["pruned"]:
        told = "; ".join(f"{name}: {train} and {tune}" for name, (train, tune) in updates.items())
        raise ValueError(f"the models were not trained and tuned for as many updates ({told})")
    return updates


def rows_of(records: Mapping[str, Record], subset: str, speeds: Mapping[str, float]) -> list[dict]:
    """Return the table's rows, one a model, in the order of `MODELS`."""
    updates = updates_of(records)
    rows = []
    for name, (script, part, label) in MODELS.items():
        record = records[name]
        train, tune = updates["unpruned" if script == "unpruned" else "pruned"]
        assert record.heads is not None and record.parameters is not None
        rows.append(
            {
                "model": label,
                "updates": f"{train} + {tune}" if part == "-tuned" else str(train),
                "heads": f"{record.heads['kept']} of {record.heads['total']}",
                "BLEU": record.metric("BLEU", subset).value,
                # a masked head is still there
                "parameters": record.parameters["before" if name == "masked" else "after"],
                "sentences/s": speeds.get(name),
            }
        )
    return rows


def summary_lines(
    dataset: str, records: Mapping[str, Record], subset: str, speeds: Mapping[str, float], picture: str
) -> list[str]:
    """Return the six lines that the demo ends with: both tuned models, side by side, and what to do next.

    Args:
        picture: its path.
    """
    train, tune = updates_of(records)["pruned"]
    before, after = (row for row in rows_of(records, subset, speeds) if row["model"].endswith(", tuned"))
    more = after["BLEU"] - before["BLEU"]
    times = after["sentences/s"] / before["sentences/s"]
    share = after["parameters"] / before["parameters"]
    return [
        f"heads       {after['heads']} stay, the others are taken out",
        f"BLEU        {after['BLEU']:.2f}, with all heads {before['BLEU']:.2f}: {more:+.2f} "
        f"({train} + {tune} updates of training and tuning each)",
        f"parameters  {after['parameters']:,}, with all heads {before['parameters']:,}: {share:.2f} times",
        f"speed       {after['sentences/s']:.1f} sentences/s, with all heads "
        f"{before['sentences/s']:.1f}: {times:.2f} times",
        f"picture     {picture}",
        f"next        {NEXT[dataset]}",
    ]


def write_report(
    out: str,
    dataset: str,
    subset: str,
    records: Mapping[str, Record],
    speeds: Mapping[str, float],
    seconds: float,
    seed: int,
    cpu: bool,
) -> list[str]:
    """Write table, pictures and record into a folder; return the six lines of the summary.

    Args:
        speeds: name of `MODELS` -> sentences a second, of the two tuned ones.
        seconds: of this start of the demo.
    """
    rows = rows_of(records, subset, speeds)
    tuned = records["pruned-tuned"]
    heads = tuned.heads
    signature = records["unpruned"].metric("BLEU", subset).signature
    text = (
        f"# {dataset}: all heads, and {heads['kept']} of {heads['total']}\n\n"
        f"{markdown_table(rows, COLUMNS)}\n\nBLEU: {signature}\n"
    )
    write_text(os.path.join(out, "table.md"), text)
    head_map_png(heads, mask_of(heads), os.path.join(out, "heads.png"), f"{dataset}: heads kept")
    both = [row for row in rows if row["sentences/s"] is not None]
    picture = os.path.join(out, "comparison.png")
    comparison_png(
        [row["model"] for row in both],
        {
            "BLEU": [row["BLEU"] for row in both],
            "parameters (millions)": [row["parameters"] / 1e6 for row in both],
            "sentences/s": [row["sentences/s"] for row in both],
        },
        picture,
    )
    train, tune = updates_of(records)["pruned"]
    scores = [
        Metric(f"BLEU {name}", row["BLEU"], signature=signature, subset=subset)
        for name, row in zip(records, rows)
    ]
    measured = [
        Metric(f"speed {name}", value, "sentences/s", subset=subset) for name, value in speeds.items()
    ]
    record = new_record(
        "demo",
        dataset,
        "dsp-joint-tuned",
        device="cpu" if cpu else None,
        seed=seed,
        data=tuned.data,
        heads=heads,
        parameters=tuned.parameters,
        updates=train + tune,
        seconds={"demo": seconds},
        metrics=scores + measured,
        extra={"updates": {"train": train, "tune": tune}},
    )
    save_record(record, os.path.join(out, "results.json"))
    return summary_lines(dataset, records, subset, speeds, picture)
