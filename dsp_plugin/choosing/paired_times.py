"""Time of one run beside another's, taken in turns: a machine that slows down slows both."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Effort:
    """How long two runs are compared.

    Attributes:
        pairs: at least so many of each; at most `most`.
        seconds: after so many there is an end, unless there are too few pairs.
        precise: an end where the median ratio is known to this part of itself.
    """

    pairs: int = 5
    most: int = 200
    seconds: float = 6.0
    precise: float = 0.01


@dataclass(frozen=True)
class Paired:
    """What was timed.

    Attributes:
        first, second: seconds of each run, in their order: one of each a pair.
    """

    first: list[float]
    second: list[float]

    @property
    def ratio(self) -> float:
        """The median of the pairs' own ratios, first over second."""
        return statistics.median(a / b for a, b in zip(self.first, self.second))

    @property
    def interval(self) -> tuple[float, float]:
        """Two of the pairs' ratios between which their median lies with 95 % confidence, by ranks alone."""
        return median_interval([a / b for a, b in zip(self.first, self.second)])


def paired_times(
    first: Callable[[], object],
    second: Callable[[], object],
    effort: Effort = Effort(),
    device: str = "cpu",
    clock: str = "wall",
) -> Paired:
    """Time two runs in turns, A B B A A B ..., after one of each that does not count.

    Args:
        effort: how long.
        device: where they run; on "cuda" the clock waits for it.
        clock: "wall", or "processor": time that this process spent on the CPU, which is steadier where others
            share the machine. Of one thread only, and not of a GPU.
    """
    read = _clock(device, clock)
    times: tuple[list[float], list[float]] = ([], [])
    runs = (first, second)
    collects = gc.isenabled()
    gc.disable()  # a collection would fall to one of the two
    try:
        for run in runs:
            run()
        begin = time.perf_counter()
        while True:
            for position in (0, 1) if len(times[0]) % 2 == 0 else (1, 0):
                start = read()
                runs[position]()
                times[position].append(read() - start)
            if _is_enough(times, time.perf_counter() - begin, effort):
                return Paired(*times)
    finally:
        if collects:
            gc.enable()


def median_interval(values: list[float]) -> tuple[float, float]:
    """Return two of the values, between which the median of their distribution lies with 95 % confidence.

    By ranks (binomial order statistics), whatever the distribution: timings have long tails. With fewer than
    six values it is their range, which promises less.
    """
    ordered, rank, tail = sorted(values), 0, 0.5 ** len(values)
    while tail <= 0.025:
        rank += 1
        tail += math.comb(len(values), rank) * 0.5 ** len(values)
    low = max(rank - 1, 0)
    return ordered[low], ordered[len(values) - 1 - low]


def _is_enough(times: tuple[list[float], list[float]], spent: float, effort: Effort) -> bool:
    pairs = len(times[0])
    if pairs < effort.pairs:
        return False
    if pairs >= effort.most or spent >= effort.seconds:
        return True
    paired = Paired(*times)
    low, high = paired.interval
    return pairs >= 6 and high - low <= 2 * effort.precise * paired.ratio


def _clock(device: str, kind: str) -> Callable[[], float]:
    if kind == "processor":
        return time.process_time
    if not device.startswith("cuda"):
        return time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronised
