"""A piece of work that is killed (SIGKILL) before every single change it makes to names of files."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import torch

from dsp_plugin.records.files import scratch

CALLS = [(os, name) for name in ("replace", "rename", "link", "unlink", "rmdir", "mkdir")] + [
    (scratch, "_exchange")
]


def killed_everywhere(work: Callable[[], Any], every: int = 1) -> Iterator[int]:
    """Do the work in a forked process that dies before its nth change, and give n; for n = 1, 2 ... until
    it gets through.

    With `every` 3 it is n = 1, 4 ...

    What the generator's user does between two is to bring everything back to where the work begins.
    """
    for number in itertools.count(1, every):
        child = os.fork()
        if not child:
            try:
                torch.set_num_threads(1)  # a forked process has no other threads
                _arm(number)
                work()
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, f"it failed on its way to change {number}"
            assert number > 1, "it changed nothing"
            return
        yield number


def _arm(number: int) -> None:
    left = [number]
    signal.alarm(60)

    def armed(call: Callable) -> Callable:
        def calling(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return calling

    for owner, name in CALLS:
        setattr(owner, name, armed(getattr(owner, name)))
