#!/usr/bin/env python3
"""One table of many runs of run.py: each seed's learning rate by its score on dev, then mean ± sd over seeds.

The test set never chooses. Where no labelled test set was scored (full data), the set is dev, and says so.
Columns: the scores, seeds, the rates taken and of how many, tunable numbers, their share of the base, bytes.

  python tools/gather_result.py
  python tools/gather_result.py --folder result --condition "{'task': 'sst-2', 'tag': 'exp'}" --format latex
"""

import argparse
import ast
import sys
from pathlib import Path


def program(argv):
    from tabulate import tabulate

    from dsp_plugin.options.errors import OptionError
    from dsp_plugin.reports.tables.delta_runs import FIELDS, cells, chosen, read_runs

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", default="result", help="results of run.py, at any depth (default: result)"
    )
    parser.add_argument(
        "--condition", default="{}", help=f"{{'name': value}}, of {', '.join(FIELDS)}: only these runs"
    )
    parser.add_argument(
        "--format", default="github", choices=["github", "latex", "tsv", "simple"], help="of the table"
    )
    args = parser.parse_args(argv)
    try:
        condition = ast.literal_eval(args.condition)
        if not isinstance(condition, dict):
            raise ValueError
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise OptionError("condition", f"{args.condition[:100]}: {{'task': 'SST-2'}} or its like") from None
    runs = read_runs(args.folder)
    rows = chosen(runs, condition)
    if not rows:
        raise ValueError(f"--folder {args.folder}: none of {len(runs)} runs is wanted")
    tables = {}
    for row in rows:
        tables.setdefault((row.task, tuple(row.means)), []).append(cells(row))
    print(
        "\n\n".join(
            tabulate(table, headers="keys", tablefmt=args.format, disable_numparse=True)
            for table in tables.values()
        )
    )


def main(argv=None):
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    from dsp_plugin.options.errors import underscored
    from dsp_plugin.options.faults import one_line
    from dsp_plugin.options.launchers import without_local_rank

    try:
        program(without_local_rank(sys.argv[1:] if argv is None else argv))
    except (ValueError, OSError) as error:
        sys.exit(f"gather_result.py: error: {one_line(error, underscored)}")


if __name__ == "__main__":
    main()
