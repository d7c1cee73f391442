"""A repository of fake programs for the pipelines, which finish in no time, and Snakemake started on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLACES = {"runs": "runs", "results": "results", "data": "glue"}
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # for `import pipelines`


def plans_in(folder: Path, plan: type, **defaults: Any) -> Callable[..., Any]:
    """make(**settings) -> a plan of BERT whose runs, results and data are below `folder`."""
    places = {name: str(folder / place) for name, place in PLACES.items()}
    return lambda **settings: plan({"model": "bert", **defaults, **places, **settings})


# Notes its start in `calls`; leaves a checkpoint; fails where its command line has what is in `broken`; waits
# while `hold` is there, and for as many starts as `together` says; writes what others and the tables need.
FAKE = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from dsp_plugin.records.record import Record, save_record

def note(text):
    with open("calls", "a") as calls:
        calls.write(text + "\\n")

def text_of(name):
    return Path(name).read_text() if Path(name).exists() else ""

words = sys.argv[1:]
values = dict(zip(words, words[1:]))
note(f"{{Path(sys.argv[0]).stem}} {{values['--record_dir']}}")
out = Path(values["--output_dir"])
resumed = (out / "checkpoint-1" / "state").exists()
(out / "checkpoint-1").mkdir(parents=True, exist_ok=True)
(out / "checkpoint-1" / "state").write_text("half a training")
if text_of("broken") and text_of("broken") in " ".join(sys.argv):
    sys.exit("broken")
while Path("hold").exists() or len(text_of("calls").splitlines()) < int(text_of("together") or 0):
    time.sleep(0.02)
folders = [""]
if "--budgets" in words:
    folders = ["K" + k for k in words[words.index("--budgets") + 1 : words.index("--batch_size")]]
if "--dsee_checkpoint" in words and "--do_train" in words:
    folders = ["2nd", "3rd"]  # stages II and III
for folder in folders:
    record = Record("glue-score", "CoLA", "any", seed=int(values["--seed"]), metrics=[])
    record.extra = {{"resumed": resumed}}
    save_record(record, Path(values["--record_dir"], folder, "dev"))
for name in ("--save_checkpoint", "--save_pack"):
    if name in values:
        Path(values[name]).write_text("a file")
for name in ("config.json", "checkpoint-last-info.pt", "task.dsee.safetensors", "3rd/task.dsee.safetensors"):
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("a model")
"""

# The steps of a pipeline of scripts/mt.
FAKE_MT = """#!/usr/bin/env bash
set -eu
echo "$(basename "$0" .sh) $STEPS $SAVE_DIR ${SUBSETS:-}" >>calls
if [[ -f broken && "$0 $STEPS $SAVE_DIR" == *$(<broken)* ]]; then echo broken; exit 1; fi
mkdir -p "$SAVE_DIR/tuned"
case $STEPS in
train) echo '{}' >"$SAVE_DIR/results.json" ;;
sweep) mkdir -p "$SWEEP" && echo '{}' >"$SWEEP/results.json" ;;
prune) echo a model >"$SAVE_DIR/checkpoint_pruned.pt" ;;
tune) echo '{}' >"$SAVE_DIR/tuned/results.json" ;;
score*)
    out=$RECORD_DIR/$SUBSETS${STEPS#score}
    mkdir -p "$out"
    echo '{"schema": 1}' >"$out/results.json"
    ;;
esac
"""


def snakemake() -> str:
    """The program, of the environment that `make` gives it or another; skips where there is none."""
    own = Path(sys.prefix, "snakemake", "bin", "snakemake")
    found = os.environ.get("SNAKEMAKE") or (str(own) if own.is_file() else shutil.which("snakemake"))
    if not found:
        pytest.skip("needs Snakemake: `make venv` installs it")
    return found


def fake_repository(folder: Path) -> Path:
    """The pipelines and the package, with fake programs."""
    shutil.copytree(ROOT / "pipelines", folder / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "dsp_plugin").symlink_to(ROOT / "dsp_plugin")
    for path in (ROOT / "scripts").glob("*/run_*.py"):
        fake = folder / path.relative_to(ROOT)
        fake.parent.mkdir(parents=True, exist_ok=True)
        fake.write_text(FAKE.format(root=str(ROOT)))
    for path in (ROOT / "scripts/mt").glob("*.sh"):
        fake = folder / path.relative_to(ROOT)
        fake.write_text(FAKE_MT)
        fake.chmod(0o755)
    (folder / "data-bin/multi30k").mkdir(parents=True)
    (folder / "data-bin/multi30k/dict.en.txt").write_text("")
    return folder


def words_of(folder: Path, pipeline: str, *options: str, **config: Any) -> list[str]:
    """Snakemake's command line for a pipeline of the repository at `folder`."""
    config = {"python": sys.executable, **config}
    settings = [f"{name}={value}" for name, value in config.items()]
    return [
        snakemake(),
        "-s",
        f"{folder}/pipelines/{pipeline}.smk",
        "--cores",
        "1",
        *options,
        "--config",
        *settings,
    ]


def start(folder: Path, pipeline: str, *options: str, **config: Any) -> subprocess.CompletedProcess:
    """A pipeline to its end; its messages are in `stdout`."""
    words = words_of(folder, pipeline, *options, **config)
    environment = {
        name: value for name, value in os.environ.items() if name not in ("DSP_DATA_DIR", "DATA_BIN")
    }
    streams: dict[str, Any] = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.run(words, cwd=folder, env=environment, timeout=300, **streams)


def calls(folder: Path) -> list[str]:
    """The programs that were started since the last look, in the order of their starts."""
    path = folder / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines
