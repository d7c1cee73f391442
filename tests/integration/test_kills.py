"""Programs that are killed at random moments and started again end as if nobody had disturbed them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fairseq")
pytest.importorskip("transformers")

KILLS = Path(__file__).resolve().parents[1] / "kills.py"


def test_killed_and_started_again_is_undisturbed(tmp_path):
    command = [
        sys.executable,
        KILLS,
        "--kills",
        "4",
        "--jobs",
        "mt-voita",
        "glue-joint",
        "--folder",
        tmp_path / "runs",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=500, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    *_, killed, equal, different = done.stdout.splitlines()
    assert killed.startswith("killed ") and int(killed.split()[1]) >= 4 and different == "different 0 times"
    assert int(equal.split()[1]) >= 2
