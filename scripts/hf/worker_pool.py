"""A pool with a process for each task, within limits of time and memory: a crash ends only its own task."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any


def each(
    work: Callable[[str], Any],
    tasks: Sequence[str],
    processes: int = 2,
    seconds: float = 60,
    gigabytes: int = 8,
) -> Iterator[tuple[str, Any, str]]:
    """Yield (task, what `work` returned, what went wrong) for every task, as they end.

    Args:
        work: called in a copy of this process, with all that is imported here.
        processes: number of processes at the same time.
        seconds, gigabytes: limits of one task.
    """
    context = multiprocessing.get_context("fork")
    waiting = list(reversed(tasks))
    running: dict[Connection, tuple[str, Any, float]] = {}
    while waiting or running:
        while waiting and len(running) < processes:
            here, there = context.Pipe(duplex=False)
            task = waiting.pop()
            process = context.Process(target=_run, args=(work, task, there, gigabytes), daemon=True)
            process.start()
            there.close()
            running[here] = (task, process, time.monotonic() + seconds)
        ready = wait(list(running), timeout=0.2)
        for connection in list(running):
            task, process, end = running[connection]
            found, wrong = None, ""
            if connection in ready:
                try:
                    found, wrong = connection.recv()
                except EOFError:
                    process.join()
                    wrong = f"the process ended by itself (exit code {process.exitcode})"
            elif time.monotonic() > end:
                process.kill()
                wrong = f"more than {seconds:g} s"
            else:
                continue
            process.join(1)
            connection.close()
            del running[connection]
            yield task, found, wrong


def _run(work: Callable[[str], Any], task: str, there: Connection, gigabytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (gigabytes << 30, gigabytes << 30))
    try:
        there.send((work(task), ""))
    except MemoryError:
        there.send((None, f"more than {gigabytes} GB of memory"))
    except BaseException as error:
        there.send((None, f"{type(error).__name__}: {error}"))
