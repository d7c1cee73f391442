"""How the programs on Transformers in scripts/ begin: what needs no long import is answered first."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..options.launchers import without_local_rank
from .doctor import require_transformers
from .short_help import answer_help


def start_program(
    program: Callable[[Sequence[str]], Any],
    doc: str,
    argv: Sequence[str] | None,
    data: str,
    method: str,
    needs: str = "--model_name_or_path and --output_dir",
) -> Any:
    """Call a program with its command line; errors that a user can mend end it with one line.

    Args:
        program: imports what it needs itself, because that takes seconds.
        doc: its docstring. argv: None for `sys.argv`.
        data: of `short_help.DATA`. method: of `short_help.METHODS`.
        needs: options that it asks for where it is started without any.

    Raises:
        SystemExit: after the help, without options, without Transformers, or with what is wrong.
    """
    argv = without_local_rank(sys.argv[1:] if argv is None else argv)
    if not argv:
        sys.exit(f"{doc}\nGive {needs}; --help explains the options.")
    answer_help(doc, argv, data, method)
    require_transformers()
    from ..hf.programs.chassis.parsing import run

    return run(lambda: program(argv), argv)
