#!/usr/bin/env python3
"""Show the command lines of a pipeline's runs, done or not, without running them.

python pipelines/show.py glue|diff|dsee|delta [KEY=VALUE ...]        the pipeline's settings
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.plans.delta import DeltaPlan
from pipelines.plans.diff import DiffPlan
from pipelines.plans.dsee import DseePlan
from pipelines.plans.glue import GluePlan


def main(words: list[str]) -> None:
    plans = {"glue": GluePlan, "diff": DiffPlan, "dsee": DseePlan, "delta": DeltaPlan}
    if words[0] not in plans:
        raise ValueError(f"SHOW is for {', '.join(plans)}; for others ARGS='-n -p' shows what is left")
    plan = plans[words[0]](dict(word.split("=", 1) for word in words[1:]))
    plan.check_data(run.task for run in plan.runs)
    for run in plan.runs:
        for command in plan.commands(run):
            print(shlex.join(["python", *command]))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, LookupError) as error:
        sys.exit(f"show.py: error: {error}")
