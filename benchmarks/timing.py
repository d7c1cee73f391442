"""Timing of things side by side, and what every benchmark's command line and output have in common."""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping

import torch

from dsp_plugin.options.numbers import number
from dsp_plugin.records.environment import device_name, versions


def command_line(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few repeats: under a minute, less exact")
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument(
        "--threads",
        type=number("count"),
        default=1,
        help="CPU threads (default 1: where cores are shared, several threads mostly wait for each other)",
    )
    parser.add_argument("--repeats", type=number("count"), help="rounds in which each arm is timed once")
    parser.add_argument(
        "--clock",
        choices=["wall", "processor"],
        default="wall",
        help="processor: time this process spent on the CPU, steadier where others share the machine; only "
        "for --device cpu --threads 1",
    )
    return parser


def start(args: argparse.Namespace, host: str = "fairseq") -> None:
    """Check and apply the common options, and say on what machine this is, with which torch and which `host`.

    Raises:
        SystemExit: a device that is not there, or options that exclude each other.
    """
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no GPU here; use --device cpu")
    if args.clock == "processor" and (args.device != "cpu" or args.threads != 1):
        raise SystemExit("--clock processor needs --device cpu --threads 1")
    for name in ("repeats", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise SystemExit(f"--{name} must be 1 or more, got {value}")
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    installed = ", ".join(
        f"{name} {version}" for name, version in versions().items() if name in ("torch", host)
    )
    print(f"{device_name(args.device)}; {installed}; {args.clock} time", flush=True)


class Clock:
    """Seconds, after whatever the device still has to do."""

    def __init__(self, device: str, kind: str = "wall"):
        self._read = time.process_time if kind == "processor" else time.perf_counter
        self._cuda = device == "cuda"

    def __call__(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return self._read()


def interleaved(
    arms: Mapping[Hashable, Callable[[int], object]], repeats: int, warm_up: int, clock: Clock
) -> dict[Hashable, list[float]]:
    """Seconds of each arm in each round, A B C A B C ...: a machine that slows down slows all of them.

    Each arm is called with the round's number. From round to round the order is rotated, so that no arm
    always follows the same one. The first `warm_up` rounds do not count.
    """
    names = list(arms)
    times: dict[Hashable, list[float]] = {name: [] for name in names}
    for turn in range(warm_up + repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            begin = clock()
            arms[name](turn)
            seconds = clock() - begin
            if turn >= warm_up:
                times[name].append(seconds)
    return times


def ratio(above: list[float], below: list[float]) -> float:
    """Median of the rounds' own ratios: each compares two times taken one after the other."""
    return statistics.median(a / b for a, b in zip(above, below))


def interval(values: list[float]) -> tuple[float, float]:
    """Two of the values, between which the median of what they were drawn from lies with 95 % confidence.

    By ranks alone (binomial order statistics), so whatever the distribution: timings have long tails. With
    fewer than six values it is their range, which promises less.
    """
    ordered, rank, tail = sorted(values), 0, 0.5 ** len(values)
    while tail <= 0.025:
        rank += 1
        tail += math.comb(len(values), rank) * 0.5 ** len(values)
    low = max(rank - 1, 0)
    return ordered[low], ordered[len(values) - 1 - low]


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
