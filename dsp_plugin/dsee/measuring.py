"""What a forward pass costs, before and after: operations that are counted, and time that is measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

PAIRS = 5
LONGEST = 20.0  # seconds after which no further pair is timed

Call = Callable[[], Any]
"""One forward pass of a model in evaluation mode on one batch."""


@torch.no_grad()
def flops_of(call: Call) -> int:
    """Count the operations of a pass; zeros in dense matrices count as all others."""
    # attention in single products: torch does not know what its fused kernel for the CPU does
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


@torch.no_grad()
def latency_of(base: Call, deployed: Call, device: torch.device) -> dict[str, Any]:
    """Time two passes in turn; return medians in seconds, and the median of the pairs' ratios.

    One thread on a CPU is timed by the processor's clock, too (`processor`): others disturb it less.
    """
    threads, clocks = torch.get_num_threads(), {"wall": time.perf_counter}
    if device.type == "cpu" and threads == 1:
        clocks["processor"] = time.process_time
    times: dict[str, dict[str, list[float]]] = {clock: {"base": [], "deployed": []} for clock in clocks}
    begun = time.perf_counter()
    for number in range(PAIRS + 1):
        pair = [("base", base), ("deployed", deployed)]
        for name, call in pair if number % 2 else reversed(pair):
            started = {clock: now() for clock, now in clocks.items()}
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:  # the first is slower
                for clock, now in clocks.items():
                    times[clock][name].append(now() - started[clock])
        if number and time.perf_counter() - begun > LONGEST:
            break
    coarse = [clock for clock, both in times.items() if not all(min(found) > 0 for found in both.values())]
    found = {clock: _in_pairs(both) for clock, both in times.items() if clock not in coarse}
    how = {"pairs": len(times["wall"]["base"]), "threads": threads, "device": device.type}
    return {**found.pop("wall"), **how, **found}


def _in_pairs(times: dict[str, list[float]]) -> dict[str, float]:
    ratios = [one / other for one, other in zip(times["base"], times["deployed"])]
    medians = {name: statistics.median(found) for name, found in times.items()}
    return {**medians, "speedup": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def measured_lines(account: dict[str, Any], words: str) -> list[str]:
    """Say `flops` and `latency` of an account in two lines.

    Args:
        words: what a batch has, as "8 x 20 tokens".
    """
    flops, time_of = account["flops"], account["latency"]
    saved = 1 - flops["deployed"] / flops["base"] if flops["base"] else 0.0
    clocked = time_of.get("processor")
    by_processor = f"; by the processor's clock {clocked['speedup']:.2f}" if clocked else ""
    return [
        f"a batch of {words}: {flops['deployed'] / 1e9:.4g} of the base's "
        f"{flops['base'] / 1e9:.4g} GFLOPs ({100 * saved:.1f} % saved)",
        f"time of it: {1e3 * time_of['deployed']:.1f} ms, base {1e3 * time_of['base']:.1f} ms, "
        f"{time_of['speedup']:.2f} times as fast (from {time_of['least']:.2f} to {time_of['most']:.2f} in "
        f"{time_of['pairs']} pairs, {time_of['threads']} threads{by_processor})",
    ]
