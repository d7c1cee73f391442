"""The `dsp` command.

A subcommand is a module of this folder with `add_arguments(parser)` and `run(args) -> int`, and one line in
`COMMANDS`; its docstring opens its `--help`. It is imported only when it is asked for, and imports torch or a
host only when it runs, so that every `--help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence

from dsp_plugin import __version__
from dsp_plugin.options.errors import as_typed, dashed
from dsp_plugin.options.faults import one_line
from dsp_plugin.options.terminal import printable

# The name of the module and the line that `dsp --help` shows for it.
COMMANDS = {
    "doctor": "say what is installed, what is missing and the command that mends it",
    "prune": "make a model smaller and faster: ask for a speed, or take out the heads that were not kept",
    "curve": "a model's score against its measured speed, at several bounds",
    "export": "write a checkpoint that loads without this plugin",
    "diff": "look into diff packs, bring them into models and out again",
    "dsee": "look into DSEE files, make models of their own of them",
    "delta": "look into the files of Delta-Tuning",
    "report": "make tables, pictures and one HTML page from result records",
    "seal": "put checksums into files of earlier versions, or anew after an edit",
}

TRACEBACK = "--traceback"

DESCRIPTION = """\
Prune attention heads, and work with what came out of it.

Training and translating is done by the programs of the host:

  fairseq-train DATA --user-dir dsp_plugin --task dsp_translation ...   train with exactly K heads kept
  fairseq-generate DATA --user-dir dsp_plugin --path CHECKPOINT ...     translate

This command is for what comes before and after."""

EPILOG = """\
Start here:

  dsp doctor                                      can this machine do the work?
  dsp prune checkpoint_best.pt --out small.pt     a smaller, faster checkpoint
  dsp COMMAND --help                              everything a command takes"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `dsp` with `argv` (the process's own arguments by default) and return the exit status.

    0: done; 1: it could not be done, the reason is on stderr; 2: the command line is wrong.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    show_traceback = TRACEBACK in argv  # wherever it stands, also behind the command
    argv = [word for word in argv if word != TRACEBACK]
    parser = build_parser(argv)
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print(f"dsp {args.command}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        # What bad input raises, in whichever library. A user wants the reason, not where in the program it
        # was noticed.
        if show_traceback:
            raise
        print(f"dsp {args.command}: error: {_reason(error, argv[1:])}", file=sys.stderr)
        if isinstance(error, ImportError):
            print("`dsp doctor` says what is missing and how to get it.", file=sys.stderr)
        return 1


def _reason(error: Exception, words: Sequence[str]) -> str:
    """Say the error in one line, with the command line's files where its own words are for programmers."""
    line = one_line(error, as_typed(words, dashed))
    if isinstance(error, (OSError, ValueError, ImportError)):
        return line
    files = [word for word in words if os.path.exists(word) and word not in line]
    where = f"{printable(', '.join(files), keep='')}: " if files else ""
    return f"{where}{line} ({TRACEBACK} shows where)"


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The whole parser, but only the subcommand that `argv` asks for is imported and has its arguments."""
    parser = argparse.ArgumentParser(
        prog="dsp",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dsp_plugin {__version__}")
    parser.add_argument(TRACEBACK, action="store_true", help="show the whole traceback of an error")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    chosen = next((word for word in argv if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        module_name = f"dsp_plugin.cli.{name}"
        if importlib.util.find_spec(module_name) is None:
            continue
        if name != chosen:
            commands.add_parser(name, help=summary)
            continue
        module = importlib.import_module(module_name)
        subparser = commands.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
