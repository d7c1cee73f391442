"""Make tables, pictures and one HTML page from result records.

RESULTS is searched for results.json with all folders below it. Into --out go index.html, which holds
everything and opens without a network, tables/ (Markdown, CSV, LaTeX) and pictures/ (PNG). Nothing is trained
or translated.
"""

from __future__ import annotations

import argparse
from typing import Any


class _NoOther(argparse.Action):
    """Takes folders after the first, to say what to do instead."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None
    ) -> None:
        if values:
            given = " and ".join([namespace.results, *values])
            parser.error(
                f"one folder is taken, and all below it is searched: name the one that holds {given}"
            )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", metavar="RESULTS", help="a folder of result records")
    parser.add_argument("others", nargs="*", action=_NoOther, help=argparse.SUPPRESS)
    parser.add_argument("--out", required=True, metavar="DIR", help="where the report goes")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="these settings alone (default: all)"
    )
    parser.add_argument(
        "--baseline", metavar="METHOD", help="the method the others are compared with (default: unpruned)"
    )


def run(args: argparse.Namespace) -> int:
    from dsp_plugin.records.environment import command_line
    from dsp_plugin.records.files.whole import check_folder
    from dsp_plugin.reports.report import make_report

    check_folder("--out", args.out)
    command = ["dsp", "report", args.results, "--out", args.out]
    command += ["--only", *args.only] if args.only else []
    command += ["--baseline", args.baseline] if args.baseline else []
    report = make_report(args.results, args.out, args.only, args.baseline, command_line(command))
    for problem in report.problems:
        print(f"left out: {problem}")
    records = f"{report.records} record{'' if report.records == 1 else 's'}"
    settings = f"{report.settings} setting{'' if report.settings == 1 else 's'}"
    print(f"{records}, {settings}, {len(report.files)} files written")
    print(f"open {report.files[-1]}")
    return 0
