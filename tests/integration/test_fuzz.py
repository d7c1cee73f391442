"""A short look by the fuzzer (`python tests/fuzz.py` is the long one): nothing may come out wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fairseq")
pytest.importorskip("transformers")

FUZZ = Path(__file__).resolve().parents[1] / "fuzz.py"


def test_damage_hostile_files_and_senseless_options_are_refused_or_harmless():
    command = [sys.executable, FUZZ, "--trials", "75", "--seed", "11"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    counts = {kind: int(number) for kind, number in (line.split() for line in done.stdout.splitlines()[-4:])}
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert counts["tried"] >= 75 and counts["wrong"] == 0 and counts["refused"] > 40
