#!/usr/bin/env python3
"""Run one command of a pipeline in the repository, its output at the end of a log.

  job.py NAME LOG [--threads N] -- COMMAND ...        python in COMMAND is this interpreter

Ends with 1 where the command fails, or where another pipeline is at work on the same log.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dsp_plugin.records.files.claim import claimed

# Snakemake sets them to its own idea of threads, with which sums, and so figures, would change
THREADS = [f"{name}_NUM_THREADS" for name in ("OMP", "GOTO", "OPENBLAS", "MKL", "NUMEXPR")] + [
    "VECLIB_MAXIMUM_THREADS"
]


def run(name: str, log: Path, threads: str, words: list[str]) -> bool:
    """Run the command and return whether it succeeded.

    Args:
        threads: of each process; empty: as many as the libraries choose.

    Raises:
        ValueError: another program has claimed this log.
    """
    environment = {key: value for key, value in os.environ.items() if key not in THREADS}
    environment.update(dict.fromkeys(THREADS, threads) if threads else {})
    environment.update(PYTHON=sys.executable, DSP_PYTHON=sys.executable)  # of the shell scripts
    if words[0].endswith(".py") or words[0] == "python":
        words = [sys.executable, *words[words[0] == "python" :]]
    with claimed("the folder", log.parent, f".{log.stem}.grid.lock"):
        print(f"| start  {name}   (log: {log})", file=sys.stderr, flush=True)
        started = time.time()
        with open(log, "a", encoding="utf-8") as stream:
            code = subprocess.call(words, cwd=ROOT, env=environment, stdout=stream, stderr=stream)
    ended = f"FAILED {name}   see {log}" if code else f"done   {name}"
    print(f"| {ended}   {time.time() - started:.0f} s", file=sys.stderr, flush=True)
    return code == 0


def main(argv: list[str]) -> int:
    dashes = argv.index("--")
    name, log, *more = argv[:dashes]
    try:
        return 0 if run(name, Path(log), more[1] if more else "", argv[dashes + 1 :]) else 1
    except ValueError as error:
        print(f"| FAILED {name}   {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
