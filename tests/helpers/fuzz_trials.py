"""One trial of the fuzzer: a call in a process of its own, with bounded memory and time, and what came of
it.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

MEMORY = 3 << 30  # bytes that a trial may add to what this process has
SECONDS = 60


class Began(BaseException):
    """Training begins: the options have been taken. Not an Exception, so that no program makes words of
    it.
    """


class Trial(NamedTuple):
    """One thing to try.

    Attributes:
        name: what is done, in words.
        action: does it; returns something to compare, or raises.
        wanted: the digest of what may come of it other than a refusal; None where it must be refused.
        ran: a path that is there only if code out of a file ran.
    """

    name: str
    action: Callable[[], Any]
    wanted: str | None
    ran: Path | None = None


class Outcome(NamedTuple):
    kind: str  # "value", "refused" or "failed"
    text: str  # a digest, or what was said


def outcome_of(action: Callable[[], Any]) -> Outcome:
    """Say what comes of calling `action` in a process of its own."""
    reading, writing = os.pipe()
    sys.stdout.flush(), sys.stderr.flush()
    child = os.fork()
    if not child:
        os.close(reading)
        _bound()
        found = _called(action)
        os.write(writing, json.dumps([found.kind, found.text[:2000]]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Outcome("failed", f"died of {signal.Signals(os.WTERMSIG(status)).name}")
    return Outcome(*json.loads(said)) if said else Outcome("failed", f"ended without a word, status {status}")


def _bound() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SECONDS)


def _called(action: Callable[[], Any]) -> Outcome:
    try:
        return Outcome("value", digest(action()))
    except Began:
        return Outcome("value", digest("began"))
    except SystemExit as end:
        if end.code in (None, 0):
            return Outcome("value", digest("ended"))
        return Outcome("refused", str(end.code))
    except (ValueError, OSError) as error:
        return Outcome("refused", str(error))
    except BaseException as error:
        place = error.__traceback__
        while place.tb_next:
            place = place.tb_next
        where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}"
        return Outcome("failed", f"{type(error).__name__} in {where}: {str(error)[:300]}")


def digest(value: Any) -> str:
    """SHA-256 of nested plain values, tensors and arrays: their types, shapes and bits."""
    sum_ = hashlib.sha256()
    _digest(value, sum_.update)
    return sum_.hexdigest()


def _digest(value: Any, add: Callable[[bytes], None]) -> None:
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        add(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        add(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, (np.ndarray, np.generic)):
        add(f"array {value.dtype} {value.shape} ".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        add(f"dict {len(value)} ".encode())
        for key in sorted(value, key=repr):
            _digest(key, add)
            _digest(value[key], add)
    elif isinstance(value, (list, tuple, set, frozenset)):
        add(f"{type(value).__name__} {len(value)} ".encode())
        for item in sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value:
            _digest(item, add)
    elif isinstance(value, bytes):
        add(b"bytes " + value)
    elif value is None or isinstance(value, (bool, int, float, str, Path)):
        add(f"{type(value).__name__} {value!r} ".encode())
    else:
        add(type(value).__name__.encode())
        _digest(vars(value), add)


def judged(trial: Trial) -> Outcome:
    """The trial's outcome, of kind "refused", "equal" or "wrong"."""
    found = outcome_of(trial.action)
    if trial.ran is not None and trial.ran.exists():
        os.rmdir(trial.ran)
        return Outcome("wrong", "code out of the file ran")
    if found.kind == "refused":
        return found if found.text.strip() else Outcome("wrong", "it was refused without a word")
    if found.kind == "value":
        if trial.wanted == found.text:
            return Outcome("equal", "")
        return Outcome("wrong", "another value was read" if trial.wanted else "it was taken")
    return Outcome("wrong", found.text)
