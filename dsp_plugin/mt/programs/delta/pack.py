"""A delta file by hand: of a checkpoint of a training by --task delta_translation."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ..chassis.argv import asks_for_help
from ..chassis.refusals import raise_errors, run_program

# nothing of fairseq is imported up here: a program without arguments answers at once


def pack_delta_program(doc: str, argv: Sequence[str]) -> None:
    """Write a file, see `files.file_of_checkpoint`."""
    if not argv:
        sys.exit(doc + "\nGive a checkpoint, --base-checkpoint and --out.")
    if asks_for_help(argv):
        print(doc)
        return
    run_program(pack_delta, argv)


def pack_delta(argv: Sequence[str]) -> None:
    """Write the file of a checkpoint.

    Raises:
        ValueError, OSError: options or files that cannot be; nothing is written then.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("checkpoint")
    parser.add_argument("--base-checkpoint")
    parser.add_argument("--out")
    raise_errors(parser)
    options = parser.parse_args(list(argv))

    from ....options.errors import OptionError
    from ....records.files.whole import check_output
    from ...delta.account import account_lines, account_of
    from ...delta.files import file_of_checkpoint, write_file
    from ...surgery.base_checkpoint import read_base

    if not options.out:
        raise OptionError("out", "FILE: name the file to write")
    read = {"the first argument": options.checkpoint, "--base-checkpoint": options.base_checkpoint or ""}
    check_output("--out", options.out, read)
    base = read_base(options.base_checkpoint, "is tuned")
    file = file_of_checkpoint(options.checkpoint, base)
    write_file(file, options.out)
    for line in account_lines(account_of(base, file, options.out)):
        print(f"| {line}")
    print(f"| {options.out}: {os.path.getsize(options.out):,} bytes", flush=True)
