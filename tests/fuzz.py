#!/usr/bin/env python3
"""Throw damaged files, hostile checkpoints and senseless option values at the programs, and count what comes
of it.

    python tests/fuzz.py [--minutes 10] [--seed 1] [--trials N] [--campaigns damage hostile options]

Every trial runs in a process of its own, forked from this one, with bounded memory and time. Its outcome is

    refused   an error that says in words what is wrong (ValueError, OSError, or the end of a program with a
              message)
    equal     the file was read as if nothing had been done to it; the program went on to train as it was
              asked to
    wrong     anything else: another value, another exception, a crash, memory or time without end, code that
              ran

The last lines are the counts, `tried N`, `refused N`, `equal N`, `wrong N`; the exit status is 1 where one
was wrong. The campaigns are in fuzz_damage.py, fuzz_hostile.py and fuzz_options.py.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "helpers"))

from fuzz_trials import judged

CAMPAIGNS = ["damage", "hostile", "options"]


def fuzz(
    names: list[str], folder: Path, seed: int, enough: Callable[[int, float], bool]
) -> collections.Counter[str]:
    """Try one of each campaign after the other until `enough(tried, seconds)`; the counts by outcome."""
    rng = random.Random(seed)
    counts: collections.Counter[str] = collections.Counter()
    by_campaign = {name: collections.Counter() for name in names}
    sources = {}
    for name in names:
        (folder / name).mkdir()
        sources[name] = importlib.import_module(f"fuzz_{name}").trials(folder / name, rng)
    begun = shown = time.time()
    while not enough(counts["tried"], time.time() - begun):
        for name, source in sources.items():
            trial = next(source)
            outcome = judged(trial)
            for counter in (counts, by_campaign[name]):
                counter.update(["tried", outcome.kind])
            if outcome.kind == "wrong":
                print(f"WRONG {name}: {trial.name}: {outcome.text}", flush=True)
        if time.time() - shown > 30:
            shown = time.time()
            print(f"{shown - begun:5.0f} s: {dict(counts)}", flush=True)
    for name, counter in by_campaign.items():
        parts = [f"{counter[kind]} {kind}" for kind in ("tried", "refused", "equal", "wrong")]
        print(f"{name}: {', '.join(parts)}", flush=True)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--trials", type=int, help="end after so many, whatever the time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--campaigns", nargs="+", choices=CAMPAIGNS, default=CAMPAIGNS)
    options = parser.parse_args()

    def enough(tried: int, seconds: float) -> bool:
        return seconds >= 60 * options.minutes if options.trials is None else tried >= options.trials

    with tempfile.TemporaryDirectory() as folder:
        counts = fuzz(options.campaigns, Path(folder), options.seed, enough)
    for kind in ("tried", "refused", "equal", "wrong"):
        print(f"{kind} {counts[kind]}", flush=True)
    return 1 if counts["wrong"] or not counts["tried"] else 0


if __name__ == "__main__":
    sys.exit(main())
