"""The pipelines of the demo, started side by side, and what is shown of them meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

TAIL = 15  # lines of a log that are shown when its pipeline has failed


def run_one(title: str, words: list[str], log: str, settings: Mapping[str, str]) -> None:
    """Run one command, its output in a log; stop with the end of the log if it fails."""
    with open(log, "a", encoding="utf-8") as stream:
        code = subprocess.call(words, env={**os.environ, **settings}, stdout=stream, stderr=subprocess.STDOUT)
    if code:
        stop(title, log)


def run_side_by_side(jobs: Mapping[str, Mapping[str, str]]) -> None:
    """Run pipelines side by side, one core each, showing their progress; stop if one fails.

    Args:
        jobs: script of `scripts/mt` -> its environment variables, of them SAVE_DIR, MAX_UPDATE and
            TUNE_UPDATES.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    running = {}
    for script, settings in jobs.items():
        os.makedirs(settings["SAVE_DIR"], exist_ok=True)
        log = os.path.join(settings["SAVE_DIR"], "pipeline.log")
        stream = open(log, "a", encoding="utf-8")
        begin = stream.tell()  # what an earlier start has left in it is no news
        process = subprocess.Popen(
            [f"scripts/mt/{script}.sh"],
            env={**os.environ, **settings},
            stdout=stream,
            stderr=subprocess.STDOUT,
            process_group=0,  # so that a pipeline ends with all that it has started
        )
        stream.close()
        running[script] = (process, log, begin)
    shown: dict[str, str] = {}
    started = time.time()
    try:
        while True:
            is_over = all(process.poll() is not None for process, _, _ in running.values())
            for script, (_, log, begin) in running.items():
                line = last_news(log, begin, jobs[script])
                if line and shown.get(script) != line:
                    shown[script] = line
                    print(f"  {time.time() - started:4.0f} s  {script:8s}  {line}", flush=True)
            failed = [script for script, (process, _, _) in running.items() if process.poll()]
            if failed or is_over:
                break
            time.sleep(1)
    finally:  # a failure of one, Ctrl-C and kill end the others too
        for process, _, _ in running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
    for script in failed:
        stop(script, running[script][1])


def stop(title: str, log: str) -> None:
    """End the program with the end of a log and its place."""
    with open(log, encoding="utf-8", errors="replace") as lines:
        tail = "".join(lines.readlines()[-TAIL:])
    sys.exit(
        f"{tail}\n{title} failed; its whole output: {log}. Mend it and start again: finished steps are kept."
    )


def last_news(log: str, begin: int, settings: Mapping[str, str]) -> str:
    """Return the latest step or figures in a pipeline's log: phase, update n of N, loss, BLEU.

    Args:
        begin: where this start's output begins, in bytes.
    """
    news, phase, steps = "", "training", settings["MAX_UPDATE"]
    with open(log, "rb") as stream:
        stream.seek(begin)
        text = stream.read().decode("utf-8", errors="replace")
    for line in text.splitlines():
        words = line.replace("|", " ").replace("=", " ").replace(",", " ").split()
        found = {name: words[words.index(name) + 1] for name in _NAMES if name in words[:-1]}
        if "fairseq_cli.train | {'_name'" in line and "'finetune_from_model': '" in line:
            phase, steps = "tuning", settings["TUNE_UPDATES"]
        elif "train_inner" in line and "num_updates" in found:
            heads = f", heads open {found['heads_open']}" if "heads_open" in found else ""
            news = f"{phase}: update {found['num_updates']} of {steps}, loss {found.get('loss')}{heads}"
        elif ("INFO:valid:" in line or "| valid |" in line) and "bleu" in found:
            update = found.get("num_updates", "?")
            news = f"{phase}: update {update} of {steps}, BLEU {found['bleu']} on valid"
        elif line.startswith("| BLEU on"):
            news = f"scored: {line[2:].split('  ')[0]}"
    return news


_NAMES = ("num_updates", "loss", "bleu", "heads_open")
