"""`dsp prune --target-speedup`: from a trained model to one that measures as fast as asked."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dsp_plugin.cli.speed_arguments import check_paths, open_job

if TYPE_CHECKING:
    from dsp_plugin.choosing.cost_tables import CostTable
    from dsp_plugin.choosing.search import Attempt
    from dsp_plugin.choosing.wish import Job


# of the comparison that is reported
CAREFUL = {"pairs": 9, "most": 400, "seconds": 20.0, "precise": 0.005}


class Stopwatch:
    """Seconds by phase, as records have them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def prune_to_speed(args: argparse.Namespace) -> int:
    """Do the whole of it; see `dsp prune --help`.

    Raises:
        OptionError, ValueError, OSError: what cannot be; before long work.
    """
    from dsp_plugin.choosing.search import check_wish

    check_wish(args.target_speedup)
    check_paths(args, args.out)
    watch = Stopwatch()
    with watch.phase("load"):
        job = open_job(args)
    with watch.phase("costs"):
        table = costs_of(job, args, args.target_speedup)
    from dsp_plugin.choosing.host import Meter
    from dsp_plugin.choosing.paired_times import Effort
    from dsp_plugin.choosing.search import Search

    with watch.phase("scores"):
        worth = job.worth()
    say(f"units scored by {args.score_by}")
    search = Search(job.host, table, worth, args.uniform)
    careful = Effort(**CAREFUL)
    with watch.phase("choice"):
        attempt, attempts = search.reach(args.target_speedup, Meter(job.host, args.cost, careful), say)
        model = job.checked(attempt)
    with watch.phase("measure"):
        paired = job.host.compared(model, careful)
    with watch.phase("score"):
        scores = {"unpruned": job.score(job.host.whole), "pruned": job.score(model)}
    counts = {"unpruned": job.counts(job.host.whole), "pruned": job.counts(model)}
    record = record_of(job, args, table, attempts, attempt, paired, scores, counts, watch.seconds)
    job.write(attempt, model, args.out, record)
    show(job, args, record, attempt)
    return 0


def costs_of(job: Job, args: argparse.Namespace, speedup: float | None = None) -> CostTable:
    """Measure what the job's blocks cost, or read what was measured before; say the ceiling first.

    Args:
        speedup: asked for; refused before more is measured where it is out of reach.

    Raises:
        OptionError: see `check_speedup`.
    """
    from dsp_plugin.choosing.cost_file import CostFile, default_folder
    from dsp_plugin.choosing.cost_tables import CostTable
    from dsp_plugin.choosing.host import Meter, measure_blocks, measure_fixed
    from dsp_plugin.choosing.search import check_speedup

    file = CostFile(args.costs or default_folder(), job.settings)
    found = file.read()
    meter = Meter(job.host, args.cost)
    table = CostTable(1.0, measure_fixed(meter)) if found is None else found[0]
    shape = "x".join(map(str, job.shape))
    say(
        f"ceiling: {table.ceiling:.2f} times less {args.cost} at {shape} without any of the "
        f"{job.host.head_map.num_heads} units"
    )
    if speedup is not None:
        check_speedup(speedup, table)
    if found is not None:
        say(f"costs: {file.path}, of {found[1]}")
        return table
    measure_blocks(meter, table, say)
    file.write(table)
    return table


def record_of(
    job: Job,
    args: argparse.Namespace,
    table: CostTable,
    attempts: list[Attempt],
    attempt: Attempt,
    paired: Any,
    scores: Mapping[str, list],
    counts: Mapping[str, Mapping[str, float]],
    seconds: Mapping[str, float],
) -> Any:
    """Make the record of a run."""
    import statistics
    from dataclasses import replace

    from dsp_plugin.records.record import Metric, kept_heads, new_record

    low, high = paired.interval
    times = {"unpruned": statistics.median(paired.first), "pruned": statistics.median(paired.second)}
    if args.cost == "latency":
        reached = paired.ratio
    else:
        reached = counts["unpruned"][args.cost] / max(counts["pruned"][args.cost], 1)
    metrics = [
        Metric("asked", args.target_speedup, "x"),
        Metric("reached", reached, "x"),
        Metric("ceiling", table.ceiling, "x"),
        Metric("speedup", paired.ratio, "x"),
    ]
    for which, value in times.items():
        metrics.append(Metric("latency", 1000 * value, "ms", subset=which))
        metrics += [Metric(name, float(number), subset=which) for name, number in counts[which].items()]
    metrics += [replace(metric, name=f"{metric.name} unpruned") for metric in scores["unpruned"]]
    metrics += scores["pruned"]
    head_map = job.host.head_map.to_dict()
    return new_record(
        "prune-to-speed",
        job.name,
        f"{args.score_by}-{args.target_speedup:g}x",
        device=job.host.device,
        seed=args.seed,
        data=job.data,
        metrics=metrics,
        heads=kept_heads(head_map, attempt.keep.tolist()),
        parameters={which: int(counts[name]["parameters"]) for which, name in _BEFORE_AFTER},
        seconds=dict(seconds),
        extra={
            "cost": args.cost,
            "shape": list(job.shape),
            "units": args.units,
            "group": args.group,
            "uniform": args.uniform,
            "score_by": args.score_by,
            "clock": args.clock,
            "examples": args.examples,
            "speedup_interval": [low, high],
            "pairs": len(paired.first),
            "rounds": [
                {"bound": one.bound, "predicted": one.predicted, "measured": one.measured} for one in attempts
            ],
            "rescaled_blocks": sum(factors is not None for factors in attempt.factors),
            "costs": table.to_dict(),
            "measured_as": job.settings,
        },
    )


_BEFORE_AFTER = (("before", "unpruned"), ("after", "pruned"))


def show(job: Job, args: argparse.Namespace, record: Any, attempt: Attempt) -> None:
    """Print what stays, the closing table, and what was reached."""
    from tabulate import tabulate

    from dsp_plugin.records.kept_heads import kept_in_words

    rows = []
    for name, unit in (("latency", "ms"), ("macs", ""), ("parameters", ""), ("bytes", "")):
        pair = [record.metric(name, which) for which in ("unpruned", "pruned")]
        if None not in pair:
            before, after = (metric.value for metric in pair)
            form = ",.1f" if unit else ",.0f"
            ratio = before / max(after, 1e-9) if name != "latency" else record.metric("speedup").value
            ratio = f"{ratio:.2f}x less" if after else "-"
            rows.append([f"{name} {unit}".rstrip(), f"{before:{form}}", f"{after:{form}}", ratio])
    for metric in record.metrics:
        before = record.metric(f"{metric.name} unpruned", metric.subset)
        if before is not None:
            name = f"{metric.name} on {metric.subset}"
            values = [f"{before.value:.2f}", f"{metric.value:.2f}", f"{metric.value - before.value:+.2f}"]
            rows.append([name, *values])
    print(kept_in_words(job.host.head_map.to_dict(), attempt.keep.tolist()) + " kept")
    print(
        tabulate(
            rows, ["", "unpruned", "pruned", ""], disable_numparse=True, colalign=["left"] + 3 * ["right"]
        )
    )
    reached = record.metric("reached").value
    near = abs(reached / args.target_speedup - 1) <= 0.05
    low, high = record.extra["speedup_interval"]
    seconds = sum(record.seconds.values())
    told = f"reached {reached:.2f}x of {args.target_speedup:g}x asked"
    if args.cost == "latency":
        told += f" (95 % interval {low:.2f} to {high:.2f}, {record.extra['pairs']} pairs of runs)"
    print(told + ("" if near else ": MORE THAN 5 % OFF") + f"; {seconds:.0f} s")
    print(f"written: {args.out}")


def say(text: str) -> None:
    print(text, flush=True)
