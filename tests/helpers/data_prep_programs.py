"""Run the programs of data-prep/ from tests, and read and write the text they work on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PREP = Path(__file__).resolve().parents[2] / "data-prep"
# Nobody listens there, so whatever wants the network is refused at once, online or not.
NO_NETWORK = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}


def run(program: str, *arguments, cwd: Path, **environment) -> subprocess.CompletedProcess:
    """Run a data-prep program with no real data in reach, unless `environment` says so."""
    hidden = ("DSP_DATA_DIR", "BPE_OPS", "no_proxy", "NO_PROXY")
    inherited = {name: value for name, value in os.environ.items() if name not in hidden}
    start = [sys.executable] if program.endswith(".py") else ["bash"]
    return subprocess.run(
        [*start, str(PREP / program), *map(str, arguments)],
        cwd=cwd,
        env={**inherited, "DSP_PYTHON": sys.executable, **NO_NETWORK, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def ok(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def failed(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def lines(path: Path) -> list[str]:
    return path.read_text("utf-8").split("\n")[:-1]


def write(path: Path, content: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in content), "utf-8")
