#!/usr/bin/env python3
"""Split SQuAD's development set by article: devsplit-train.json and devsplit-dev.json, beside it or in
--dest.

    python data-prep/squad_devsplit.py data/squad/dev-v1.1.json

Every fifth article (the 1st, 6th, 11th ...) goes to devsplit-dev.json, the others to devsplit-train.json:
2,968 and 7,602 questions of SQuAD v1.1's 10,570. For quick experiments; scores on it are no leaderboard's,
and a model that has seen dev-v1.1.json must not be tested on it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from squad_questions import count_questions
from whole_files import check_folder, write_text

EVERY = 5


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", metavar="DEV_FILE", type=Path, help="dev-v1.1.json")
    parser.add_argument(
        "--dest", type=Path, metavar="DIR", help="where the two files go (default: beside it)"
    )
    args = parser.parse_args(argv)
    try:
        check_folder("--dest", args.dest or args.path.parent)
    except ValueError as error:
        sys.exit(f"error: {error}")
    try:
        count_questions(args.path)
        content = json.loads(args.path.read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"error: {args.path} is no whole SQuAD file: {error!r}")
    folder = args.dest or args.path.parent
    folder.mkdir(parents=True, exist_ok=True)
    articles = content["data"]
    parts = {
        "devsplit-train.json": [article for number, article in enumerate(articles) if number % EVERY],
        "devsplit-dev.json": articles[::EVERY],
    }
    for name, part in parts.items():
        write_text(folder / name, json.dumps({"data": part, "version": content.get("version", "1.1")}))
        print(f"{folder / name}: {count_questions(folder / name):,} questions", file=sys.stderr)


if __name__ == "__main__":
    main()
