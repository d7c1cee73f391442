#!/usr/bin/env python3
"""Compare the scores of pipelined.smk's runs by paired bootstrap, as many as are there and not compared yet.

  python pipelines/compare.py [KEY=VALUE ...]        the pipeline's settings

Writes the p-values to results/multi30k/pipelined-tests.json, from where the table has them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dsp_plugin.records.files.sealed import read_json, write_json
from dsp_plugin.records.record import load_record
from dsp_plugin.records.sentences import load_statistics
from dsp_plugin.reports.significance import paired_bootstrap
from pipelines.plans.pipelined import PipelinedPlan


def statistics(path: Path) -> list[list[int]]:
    """Read the statistics [S, 10] of the BLEU of a record's file."""
    (score,) = [metric for metric in load_record(path).metrics if metric.name == "BLEU"]
    found = load_statistics(path.parent, score)
    if found is None:
        raise ValueError(f"no statistics of sentences beside {path}")
    return found


def compare(plan: PipelinedPlan) -> None:
    tests = read_json(plan.tests_file) if plan.tests_file.is_file() else {}
    for pair in plan.untested():
        (p,) = paired_bootstrap(statistics(pair.other_record), [statistics(pair.record)])
        tests[pair.name] = {"content": pair.content(), "p": round(p, 6)}
        print(f"| {pair.name}: p {p:.3f}", flush=True)
    write_json(plan.tests_file, json.dumps(dict(sorted(tests.items())), indent=1) + "\n")


if __name__ == "__main__":
    try:
        compare(PipelinedPlan(dict(word.split("=", 1) for word in sys.argv[1:])))
    except (ValueError, OSError) as error:
        sys.exit(f"compare.py: error: {error}")
