#!/usr/bin/env python3
"""Measure the decoding speed of the runs of mt.smk that have their records, side by side.

  python pipelines/speed.py [KEY=VALUE ...]        the pipeline's settings

Sentences a second of every run's deployed checkpoint, interleaved. Writes records of kind "mt-speed" under
results/multi30k/<run>/speed/. Tuned models have the shapes, and so the speed, of those they were tuned from:
they are not measured again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dsp_plugin.mt.programs.chassis.refusals import run_program
from dsp_plugin.records.record import Metric, load_record, new_record, save_record
from pipelines.plans.mt import MTPlan


def measure(plan: MTPlan) -> None:
    from dsp_plugin.mt.programs.speed import translation_speed

    how, done = plan.settings.speed, [run for run in plan.runs if plan.complete(run)]
    data = os.environ.get("DATA_BIN") or f"data-bin/{plan.settings.dataset}"  # as scripts/mt/lib.sh has it
    for model in plan.settings.models:
        runs = [run for run in done if run.model == model and plan.checkpoint(run).is_file()]
        if not runs:
            continue
        paths = [str(plan.checkpoint(run)) for run in runs]
        speeds = translation_speed(data, paths, "test", length=how["length"], cpu=True)
        for run, speed in zip(runs, speeds):
            scored = load_record(plan.record(run, "test"))
            metric = Metric("speed", speed, unit="sentences/s", subset="test")
            extra = {**how, "checkpoint": plan.checkpoint(run).name}
            described = dict(device="cpu", seed=run.seed, heads=scored.heads, metrics=[metric], extra=extra)
            save_record(
                new_record("mt-speed", scored.name, scored.method, **described), plan.record(run, "speed")
            )
            print(f"| {run.name}: {speed:.1f} sentences/s", flush=True)


def main(words: list[str]) -> None:
    measure(MTPlan(dict(word.split("=", 1) for word in words)))


if __name__ == "__main__":
    run_program(main, sys.argv[1:])
