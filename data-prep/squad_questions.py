"""Check that a file is SQuAD v1.1 and whole, before it is used, and print its number of questions.

python data-prep/squad_questions.py data/squad/dev-v1.1.json --published 10570
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def count_questions(path: Path) -> int:
    """Count the questions of a SQuAD file.

    Raises:
        OSError, ValueError, KeyError, TypeError: the file is not there or not SQuAD.
    """
    content = json.loads(path.read_text("utf-8"))
    return sum(len(paragraph["qas"]) for article in content["data"] for paragraph in article["paragraphs"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", metavar="FILE", type=Path)
    parser.add_argument("--published", type=int, metavar="QUESTIONS", help="fail on another number")
    args = parser.parse_args()
    try:
        count = count_questions(args.path)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        sys.exit(f"error: {args.path} is no whole SQuAD file: {error!r}")
    if args.published not in (None, count):
        sys.exit(f"error: {args.path} has {count:,} questions, the published set has {args.published:,}")
    print(f"{args.path}: {count:,} questions", file=sys.stderr)


if __name__ == "__main__":
    main()
