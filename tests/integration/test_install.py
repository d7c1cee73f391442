"""`make` on a machine that lacks something: it says what, with the command that mends it, and installs
nothing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make_venv(tmp_path: Path, tools: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess:
    """`make venv` into a new folder, on a PATH with nothing but `tools`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in tools:
        (folder / tool).symlink_to(shutil.which(tool))
    command = [shutil.which("make"), "venv", f"VENV={tmp_path / 'venv'}", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={"PATH": str(folder)}, capture_output=True, text=True, timeout=120
    )


def test_without_python(tmp_path):
    done = make_venv(tmp_path, ("bash", "sh"))
    assert done.returncode != 0
    assert "Python 3.11 is missing" in done.stderr and "apt-get install python3.11" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_with_an_interpreter_that_does_not_run(tmp_path):
    done = make_venv(tmp_path, ("bash", "sh"), "PYTHON=/no/such/python")
    assert done.returncode != 0 and "/no/such/python" in done.stderr


@pytest.mark.skipif(
    sys.version_info[:2] not in ((3, 11), (3, 12)), reason="the Makefile installs on 3.11 and 3.12"
)
def test_without_a_compiler(tmp_path):
    done = make_venv(tmp_path, ("bash", "sh"), f"PYTHON={sys.executable}")
    assert done.returncode != 0
    assert "C++ compiler" in done.stderr and "mend it: " in done.stderr
    assert "Nothing has been installed" in done.stderr
    assert not (tmp_path / "venv").exists()
