"""Timing of arms side by side, and the options and figures that all benchmarks share."""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import partial

import torch

from dsp_plugin.options.numbers import number
from dsp_plugin.records.environment import device_name, versions


def command_line(description: str) -> argparse.ArgumentParser:
    """Make a parser with the options of every benchmark."""
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


def add_autocast(parser: argparse.ArgumentParser) -> None:
    """Add the option of benchmarks that measure several precisions."""
    parser.add_argument(
        "--autocast",
        nargs="+",
        choices=["float16", "bfloat16"],
        default=[],
        help="measure under autocast as well, as training in this precision does (without its loss scaling)",
    )


def precisions(args: argparse.Namespace) -> Iterator[tuple[str, Callable]]:
    """Yield the name of each precision, and a function that makes the context of a forward pass in it."""
    yield "float32", contextlib.nullcontext
    for name in args.autocast:
        yield name, partial(torch.autocast, args.device, dtype=getattr(torch, name))


def start(args: argparse.Namespace, host: str = "fairseq") -> None:
    """Check and apply the common options, and print the machine and the versions of torch and the `host`.

    Raises:
        SystemExit: the device is not there, or options exclude each other.
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
    """A clock in seconds that waits for the device to finish its work."""

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
    """Time each arm in each round, A B C A B C ..., in seconds: a machine that slows down slows all of them.

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
    """Return the median of the rounds' own ratios: each compares two times taken one after the other."""
    return statistics.median(a / b for a, b in zip(above, below))


def interval(values: list[float]) -> tuple[float, float]:
    """Return two of the values, which hold the median of their distribution with 95 % confidence.

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
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
