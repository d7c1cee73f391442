"""Fetch one file over the network, with progress, or say at once why it cannot.

python data-prep/fetch.py https://example.org/corpus.tgz data/corpus.tgz
"""

from __future__ import annotations

import argparse
import http.client
import sys
import urllib.request
from pathlib import Path

from archives import MEGABYTE
from tqdm import tqdm
from whole_files import whole_file

SECONDS_TO_ANSWER = 15


def fetch(address: str, path: Path, at_most: int) -> None:
    """Write what is at `address` to `path`, whole or not at all.

    Args:
        at_most: bytes that can be there, if it is what was asked for.

    Raises:
        OSError: no connection, no answer in time, not found (urllib's errors are OSErrors too), or
            fewer bytes than were announced, or more than there can be.
        http.client.HTTPException: the answer is no HTTP.
    """
    with urllib.request.urlopen(address, timeout=SECONDS_TO_ANSWER) as answer:
        announced = answer.headers.get("Content-Length") or ""
        total = int(announced) if announced.isascii() and announced.isdigit() and int(announced) else None
        if total is not None and total > at_most:
            raise OSError(f"{total} bytes are announced, where {at_most} are plenty")
        bar = tqdm(total=total, unit="B", unit_scale=True, desc=path.name, mininterval=1)
        with whole_file(path) as out, bar:
            came = 0
            while block := answer.read(1 << 16):
                came += len(block)
                if came > at_most:
                    raise OSError(f"more than {at_most} bytes came")
                out.write(block)
                bar.update(len(block))
            if total is not None and came != total:
                raise OSError(f"{came} of {total} bytes came")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("address", metavar="ADDRESS")
    parser.add_argument("path", metavar="FILE", type=Path)
    parser.add_argument(
        "--at-most", type=int, default=1000, metavar="MB", help="refuse what is larger (default %(default)s)"
    )
    args = parser.parse_args()
    if args.at_most < 1:
        parser.error(f"--at-most {args.at_most}: 1 or more")
    if args.path.is_file():
        return
    try:
        fetch(args.address, args.path, args.at_most * MEGABYTE)
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"error: cannot fetch {args.address}: {error}")


if __name__ == "__main__":
    main()
