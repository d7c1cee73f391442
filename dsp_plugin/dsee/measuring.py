"""What a forward pass costs, before and after: operations that are counted, and time that is measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

PAIRS = 5
LONGEST = 20.0  # seconds after which no further pair is timed

Call = Callable[[], Any]
"""One forward pass of a model in evaluation mode on one batch."""


@torch.no_grad()
def flops_of(call: Call) -> int:
    """Count the operations of a pass; zeros in dense matrices count as all others."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


@torch.no_grad()
def latency_of(base: Call, deployed: Call, device: torch.device) -> dict[str, Any]:
    """Time two passes in turn; return medians in seconds, and the median of the pairs' ratios."""
    times: dict[str, list[float]] = {"base": [], "deployed": []}
    begun = time.perf_counter()
    for number in range(PAIRS + 1):
        pair = [("base", base), ("deployed", deployed)]
        for name, call in pair if number % 2 else reversed(pair):
            started = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:  # the first is slower
                times[name].append(time.perf_counter() - started)
        if number and time.perf_counter() - begun > LONGEST:
            break
    ratios = [one / other for one, other in zip(times["base"], times["deployed"])]
    return {
        **{name: statistics.median(found) for name, found in times.items()},
        "speedup": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "pairs": len(ratios),
        "threads": torch.get_num_threads(),
        "device": device.type,
    }


def measured_lines(account: dict[str, Any], words: str) -> list[str]:
    """Say `flops` and `latency` of an account in two lines.

    Args:
        words: what a batch has, as "8 x 20 tokens".
    """
    flops, time_of = account["flops"], account["latency"]
    saved = 1 - flops["deployed"] / flops["base"] if flops["base"] else 0.0
    return [
        f"a batch of {words}: {flops['deployed'] / 1e9:.4g} of the base's "
        f"{flops['base'] / 1e9:.4g} GFLOPs ({100 * saved:.1f} % saved)",
        f"time of it: {1e3 * time_of['deployed']:.1f} ms, base {1e3 * time_of['base']:.1f} ms, "
        f"{time_of['speedup']:.2f} times as fast (from {time_of['least']:.2f} to {time_of['most']:.2f} in "
        f"{time_of['pairs']} pairs, {time_of['threads']} threads)",
    ]
