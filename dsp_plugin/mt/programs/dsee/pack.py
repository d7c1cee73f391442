"""A DSEE file by hand: of a checkpoint of stage I or III, and pruned as stage II does it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ..chassis.argv import asks_for_help
from ..chassis.refusals import raise_errors, run_program

# nothing of fairseq is imported up here: a program without arguments answers at once


def pack_dsee_program(doc: str, argv: Sequence[str]) -> None:
    """Write a file, see `files.file_of_checkpoint` and `pruning.prune_file`."""
    if not argv:
        sys.exit(doc + "\nGive a checkpoint or a DSEE file, --base-checkpoint and --out.")
    if asks_for_help(argv):
        print(doc)
        return
    run_program(pack_dsee, argv)


def parser() -> argparse.ArgumentParser:
    """Make the program's parser."""
    from .run import add_pruning

    made = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    made.add_argument("source")
    made.add_argument("--base-checkpoint")
    made.add_argument("--out")
    made.add_argument("--seed", type=int, default=1)
    add_pruning(made)
    raise_errors(made)
    return made


def pack_dsee(argv: Sequence[str]) -> None:
    """Write a file of a checkpoint, or of a file that is pruned further.

    Raises:
        ValueError, OSError: options or files that cannot be; nothing is written then.
    """
    options = parser().parse_args(list(argv))

    from ....dsee.artefact import DseeFile
    from ....options.errors import OptionError
    from ....options.faults import naming
    from ....records.files.whole import check_output
    from ...dsee.account import account_lines, account_of
    from ...dsee.deployed import check_base
    from ...dsee.files import FILE, file_of_checkpoint, write_file
    from ...dsee.layer import roles_in
    from ...dsee.pruning import prune_file
    from ...surgery.base_checkpoint import read_base
    from ...training.option_checks import check_options
    from .run import pruning_of

    check_options(options)
    pruning = pruning_of(options, options.seed)
    if not options.out:
        raise OptionError("out", "FILE: name the file to write")
    source = os.path.join(options.source, FILE) if os.path.isdir(options.source) else options.source
    read = {"the first argument": source, "--base-checkpoint": options.base_checkpoint or ""}
    check_output("--out", options.out, read)
    base = read_base(options.base_checkpoint, "is updated")
    if source.endswith(".safetensors"):
        file = DseeFile.load(source)
        with naming("base_checkpoint", base.path):
            check_base(file, base.tensors)
    else:
        file = file_of_checkpoint(source, base)
    if pruning.unstructured or pruning.structured:
        pruning.check(base, roles_in(file.updates))
        file = prune_file(base, file, pruning)
    write_file(file, options.out)
    for line in account_lines(account_of(base, file, options.out)):
        print(f"| {line}")
    print(f"| {options.out}: {os.path.getsize(options.out):,} bytes", flush=True)
