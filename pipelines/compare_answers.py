#!/usr/bin/env python3
"""Compare the answers of dsee.smk's runs with those of LoRA alone, as many as are there and not compared yet.

  python pipelines/compare_answers.py [KEY=VALUE ...]        the pipeline's settings

Writes the differences with their paired bootstrap intervals to results/dsee/intervals.json, from where the
table has them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dsp_plugin.records.answers import load_answers
from dsp_plugin.records.files.sealed import write_json
from dsp_plugin.records.record import load_record
from dsp_plugin.reports.intervals import paired_interval
from pipelines.plans.dsee import DseePlan


def compare(plan: DseePlan) -> None:
    noted = plan.noted()
    for pair in plan.uncompared():
        loaded = [[load_answers(path.parent, load_record(path)) for path in both] for both in pair.records]
        found = paired_interval(pair.metric, [(one, other) for one, other in loaded])
        numbers = {name: round(value, 6) for name, value in found._asdict().items()}
        noted[pair.name] = {"content": pair.content(), **numbers, "seeds": len(loaded)}
        print(f"| {pair.name}: {found}", flush=True)
    write_json(plan.intervals_file, json.dumps(dict(sorted(noted.items())), indent=1) + "\n")


if __name__ == "__main__":
    try:
        compare(DseePlan(dict(word.split("=", 1) for word in sys.argv[1:])))
    except (ValueError, OSError) as error:
        sys.exit(f"compare_answers.py: error: {error}")
