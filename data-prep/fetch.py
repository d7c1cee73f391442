"""Fetches one file over the network, with progress, or says at once why it cannot.

    python data-prep/fetch.py https://example.org/corpus.tgz data/corpus.tgz
"""
from __future__ import annotations

import argparse
import http.client
import os
import sys
import urllib.request
from pathlib import Path

from tqdm import tqdm

SECONDS_TO_ANSWER = 15


def fetch(address: str, path: Path) -> None:
    """Writes what is at `address` to `path`.

    Raises:
        OSError: no connection, no answer in time, not found (urllib's errors are OSErrors too), or
            fewer bytes than were announced.
        http.client.HTTPException: the answer is no HTTP.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with urllib.request.urlopen(address, timeout=SECONDS_TO_ANSWER) as answer:
        total = int(answer.headers.get("Content-Length") or 0) or None
        bar = tqdm(total=total, unit="B", unit_scale=True, desc=path.name, mininterval=1)
        with open(part, "wb") as out, bar:
            while block := answer.read(1 << 16):
                out.write(block)
                bar.update(len(block))
    if total is not None and part.stat().st_size != total:
        raise OSError(f"{part.stat().st_size} of {total} bytes came")
    os.replace(part, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", metavar="ADDRESS")
    parser.add_argument("path", metavar="FILE", type=Path)
    args = parser.parse_args()
    if args.path.is_file():
        return
    try:
        fetch(args.address, args.path)
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"error: cannot fetch {args.address}: {error}")


if __name__ == "__main__":
    main()
