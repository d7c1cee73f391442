"""Programs that are killed (SIGKILL) where their files are being written: `killed_programs.py JOBS.json`.

JOBS.json: a list of {"program", "words", "call", "file", "count"}. Each program runs in a process of its own,
forked before anything is computed. `call` is "torch.save", which then writes half of the file, or
"os.replace", which then has no effect: the process dies in the `count`th call that writes a file of this
name. Exit status 0 where all were killed.
"""

from __future__ import annotations

import hf_programs  # noqa: F401  (first: see there)  isort: skip

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from hf_programs import start


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(call: str, file: str, count: int) -> None:
    """Let the `count`th `call` for a file of this name be the process's last."""
    left = [count]
    owner, name = (torch, "save") if call == "torch.save" else (os, "replace")
    stock = getattr(owner, name)

    def armed(first: Any, second: Any, *more: Any, **options: Any) -> Any:
        if isinstance(second, (str, os.PathLike)) and Path(second).name == file:
            left[0] -= 1
            if not left[0]:
                if owner is torch:
                    whole = io.BytesIO()
                    stock(first, whole)
                    Path(second).write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
                die()
        return stock(first, second, *more, **options)

    setattr(owner, name, armed)


def main() -> None:
    for job in json.loads(Path(sys.argv[1]).read_text()):
        child = os.fork()
        if not child:
            arm(job["call"], job["file"], job["count"])
            try:
                start(job["program"], *job["words"])
            finally:
                os._exit(1)  # it was not killed
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"{job['program']} was not killed: it ended with {status}")


if __name__ == "__main__":
    main()
