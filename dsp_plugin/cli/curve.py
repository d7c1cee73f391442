"""What each speed costs: a trained model's score against its measured speed, at several bounds.

One calibration and one table of costs serve all of them: units are scored once, the best choice under each
bound is taken out of a copy in memory, timed beside the unpruned model, and scored. Nothing is trained, no
model is written, and no bound is corrected: `dsp prune --target-speedup X` does that for the X that you
choose here.

  dsp curve runs/cola --calibration glue/CoLA --score glue/CoLA --out runs/curve
  dsp curve checkpoint_best.pt --calibration data-bin/multi30k --score data-bin/multi30k --out runs/curve

FOLDER gets curve.csv, curve.png and the record results.json."""

from __future__ import annotations

import argparse
import csv
import io
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsp_plugin.cli.speed import CAREFUL, Stopwatch, costs_of, say
from dsp_plugin.cli.speed_arguments import add_speed_arguments, check_paths, open_job

if TYPE_CHECKING:
    from dsp_plugin.choosing.search import Search
    from dsp_plugin.choosing.wish import Job

POINTS = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", metavar="MODEL", help="a Transformers folder, or a fairseq checkpoint (.pt)"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to write, with three files")
    parser.add_argument(
        "--speedups",
        metavar="X,X,...",
        help="the bounds, each 1 or more (default: six, evenly up to 80 %% of what is possible)",
    )
    add_speed_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Do the whole of it.

    Raises:
        OptionError, ValueError, OSError: what cannot be; before long work.
    """
    from dsp_plugin.choosing.host import Meter
    from dsp_plugin.choosing.paired_times import Effort
    from dsp_plugin.choosing.search import Search, check_speedup
    from dsp_plugin.records.files.whole import check_folder

    asked = None if args.speedups is None else parse_speedups(args.speedups)
    check_folder("--out", args.out)
    check_paths(args, None)
    if args.score is None:
        raise ValueError("--score DATA is missing: the curve is that of a score")
    watch = Stopwatch()
    with watch.phase("load"):
        job = open_job(args)
    with watch.phase("costs"):
        table = costs_of(job, args, max(asked or [1.0]))
    if asked is None:
        asked = default_speedups(table.ceiling)
    for speedup in asked:
        check_speedup(speedup, table)
    with watch.phase("scores"):
        worth = job.worth()
    search, meter = (
        Search(job.host, table, worth, args.uniform),
        Meter(job.host, args.cost, Effort(**CAREFUL)),
    )
    with watch.phase("score"):
        points = [unpruned_point(job)]
    say(words_of_point(points[0], job.main_metric))
    for speedup in asked:
        points.append(point_of(job, search, meter, speedup, watch))
        say(words_of_point(points[-1], job.main_metric))
    write(job, args, points, table, watch)
    return 0


def parse_speedups(text: str) -> list[float]:
    """Read "1.25,1.5,2".

    Raises:
        OptionError: another form, or a number below 1.
    """
    from dsp_plugin.choosing.search import check_wish
    from dsp_plugin.options.errors import OptionError

    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        raise OptionError("speedups", f"{text}: numbers with commas between them belong there") from None
    for speedup in found:
        try:
            check_wish(speedup)
        except OptionError as error:
            raise OptionError("speedups", error.reason) from None
    return found


def default_speedups(ceiling: float) -> list[float]:
    """Return six bounds, evenly on a scale of ratios, up to 80 % of the ceiling; 10 at most.

    Raises:
        ValueError: the ceiling leaves no room.
    """
    most = min(0.8 * ceiling, 10.0)
    if most <= 1.01:
        reason = f"without any unit the model is {ceiling:.2f} times as fast, and 80 % of that is no gain"
        raise ValueError(f"there is no curve to draw: {reason}")
    return [most ** (number / POINTS) for number in range(1, POINTS + 1)]


def unpruned_point(job: Job) -> dict[str, Any]:
    """Return the point of the model as it is."""
    head_map = job.host.head_map
    scores = {f"{one.name} on {one.subset}": one.value for one in job.score(job.host.whole)}
    return {
        "asked": 1.0,
        "predicted": 1.0,
        "reached": 1.0,
        "speedup": 1.0,
        "low": 1.0,
        "high": 1.0,
        "units": head_map.num_heads,
        **job.counts(job.host.whole),
        **scores,
    }


def point_of(job: Job, search: Search, meter: Any, speedup: float, watch: Stopwatch) -> dict[str, Any]:
    """Choose units for a speed-up, and measure and score the model without the others."""
    with watch.phase("choice"):
        attempt = search.attempt(1.0 / speedup)
        model = search.model(attempt)
    with watch.phase("measure"):
        paired = job.host.compared(model, meter.effort)
        reached = paired.ratio if meter.cost == "latency" else 1.0 / meter.share(model)
    with watch.phase("score"):
        scores = {f"{one.name} on {one.subset}": one.value for one in job.score(model)}
    low, high = paired.interval
    return {
        "asked": speedup,
        "predicted": 1.0 / attempt.predicted,
        "reached": reached,
        "speedup": paired.ratio,
        "low": low,
        "high": high,
        "milliseconds": 1000 * statistics.median(paired.second),
        "units": int(attempt.keep.sum()),
        **job.counts(model),
        **scores,
    }


def write(
    job: Job, args: argparse.Namespace, points: list[dict[str, Any]], table: Any, watch: Stopwatch
) -> None:
    """Write table, picture and record, and print the table."""
    from tabulate import tabulate

    from dsp_plugin.records.files.whole import write_text
    from dsp_plugin.records.record import Metric, new_record, save_record
    from dsp_plugin.reports.pictures.speeds import speeds_png

    folder = Path(args.out)
    columns = list(dict.fromkeys(name for point in points for name in point))
    text = io.StringIO()
    rows = csv.DictWriter(text, columns, lineterminator="\n")
    rows.writeheader()
    rows.writerows(points)
    write_text(folder / "curve.csv", text.getvalue())
    metric = main_column(points[0], job.main_metric)
    title = f"{job.name}: {'x'.join(map(str, job.shape))}"
    speeds_png(
        [point["speedup"] for point in points],
        [point[metric] for point in points],
        folder / "curve.png",
        metric,
        title,
    )
    record = new_record(
        "prune-curve",
        job.name,
        args.score_by,
        device=job.host.device,
        seed=args.seed,
        data=job.data,
        metrics=[Metric("ceiling", table.ceiling, "x")],
        seconds=watch.seconds,
        extra={"curve": points, "cost": args.cost, "measured_as": job.settings, "costs": table.to_dict()},
    )
    save_record(record, folder)
    shown = ["asked", "reached", "speedup", "units", "parameters", metric]
    cells = [
        [f"{point[name]:,.0f}" if name in ("units", "parameters") else f"{point[name]:.2f}" for name in shown]
        for point in points
    ]
    print(tabulate(cells, shown, disable_numparse=True, colalign=["right"] * len(shown)))
    print(f"written: {folder}/curve.csv, curve.png, results.json; {sum(watch.seconds.values()):.0f} s")


def main_column(point: dict[str, Any], metric: str) -> str:
    """Return the column of the score that pictures show: of the first set that has it."""
    return next(name for name in point if name.startswith(f"{metric} on "))


def words_of_point(point: dict[str, Any], metric: str) -> str:
    """Say what a point is, in a line."""
    column = main_column(point, metric)
    return f"asked {point['asked']:.2f}x, measured {point['speedup']:.2f}x: {column} {point[column]:.2f}"
