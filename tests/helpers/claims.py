"""Another process that is at work in a folder."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from dsp_plugin.records.files.claim import LOCK

ROOT = Path(__file__).resolve().parents[2]
_CLAIM = """
import sys, time
from dsp_plugin.records.files.claim import claim
lock = claim("--save-dir", *sys.argv[1:])
print("has it", flush=True)
"""


@contextlib.contextmanager
def at_work(folder: Path, then: str = "time.sleep(600)", name: str = LOCK) -> Iterator[subprocess.Popen]:
    """It has claimed the folder, and does something then; it is killed at the end."""
    words = [sys.executable, "-c", _CLAIM + then, str(folder), name]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "has it\n"
        yield process
    finally:
        process.kill()
        process.wait()
