"""One line instead of a traceback where the input cannot be, whichever library has noticed it."""

from __future__ import annotations

import argparse
import ast
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from ....options.errors import OptionError, Spelling, as_typed, dashed
from ....options.launchers import without_local_rank
from ....options.terminal import printable

# nothing of fairseq is imported up here: a program without arguments answers at once

TRACEBACK = "--traceback"
"""Every program takes it: errors come with all that led to them."""

# (file, function) of the work itself: options and files have been checked before it
_AT_WORK = (
    ("fairseq_cli/train.py", "train"),
    ("fairseq/tasks/fairseq_task.py", "inference_step"),
    ("mt/translate/translate.py", "translate"),
)
_WRITTEN_FOR_USERS = (ValueError, OSError, ImportError)


def run_program(main: Callable[[list[str]], Any], argv: Sequence[str]) -> None:
    """Call a program with its command line, but for --traceback and what a launcher has put there. Where that
    raises, end with one line.

    Errors in the midst of a training or a translation keep their traceback: by then the input has been
    checked, and it is the program that is at fault.
    """
    shows = TRACEBACK in argv
    words = [word for word in without_local_rank(argv) if word != TRACEBACK]
    try:
        main(words)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if shows or _at_work(error):
            raise
        line = one_line(error, as_typed(words, dashed))
        sys.exit(f"{os.path.basename(sys.argv[0])}: error: {line}")


def one_line(error: BaseException, spelling: Spelling = dashed) -> str:
    """Say what is wrong, in one line, with options as `spelling` has them."""
    text = error.spelled(spelling) if isinstance(error, OptionError) else str(error)
    text = " ".join(text.split())
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{os.fspath(error.filename)}: {error.strerror}"
    elif isinstance(error, MemoryError):
        text = f"not enough memory ({text})" if text else "not enough memory"
    elif isinstance(error, RecursionError):
        text = "something is nested too deeply"
    elif type(error).__name__ == "ProcessRaisedException":  # of a process that fairseq has started
        text = str(error).strip().splitlines()[-1]
        text = re.sub(r"^[\w.]*(Error|Exception): ", "", text)
    elif type(error).__module__.split(".")[0] in ("hydra", "omegaconf"):
        text = _of_configuration(error)
    elif not isinstance(error, _WRITTEN_FOR_USERS) and type(error) is not Exception:
        # fairseq asserts, divides, looks up: what it met there says little without the place
        text = f"{type(error).__name__}{text and ': '}{text}{_place(error)}; {TRACEBACK} shows more"
    return printable(text or type(error).__name__, keep="")


def _of_configuration(error: BaseException) -> str:
    """Hydra names an option as it stands in its own configuration: `lr_scheduler.total_num_update=null`."""
    lines = [line.strip() for line in f"{error}\n{error.__cause__ or ''}".splitlines() if line.strip()]
    missing = re.search(r"Missing mandatory value: (?:\w+\.)*(\w+)", str(error))
    if missing:
        return f"{dashed(missing[1])} is needed with these options"
    named = re.search(r"override (?:[\w.]+\.)?(\w+)=(.*)", str(error))
    if not named:
        return " ".join(lines[:2])
    option, value = dashed(named[1]), named[2]
    if value in ("null", "???"):
        return f"{option} is needed with these options"
    return f"{option} {value}: {lines[1] if len(lines) > 1 else lines[0]}"


def _place(error: BaseException) -> str:
    """The last function of fairseq's or of ours that the error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        if frame.filename != __file__ and re.search(
            r"/(fairseq|fairseq_cli|dsp_plugin)/", frame.filename.replace(os.sep, "/")
        ):
            return f" ({os.path.basename(frame.filename)}, {frame.name})"
    return ""


def _at_work(error: BaseException) -> bool:
    """Whether a training or a translation had begun, in this process or in one of those it has started.

    A method that finds a half of itself missing says so when training has begun, and means the command line
    all the same.
    """
    if type(error).__name__ == "HandshakeError":
        return False
    places = [(f.f_code.co_filename, f.f_code.co_name) for f, _ in traceback.walk_tb(error.__traceback__)]
    if type(error).__name__ == "ProcessRaisedException":
        places += re.findall(r'File "(.*?)", line \d+, in (\w+)', str(error))
    places = [(file.replace(os.sep, "/"), name) for file, name in places]
    pairs = ((place, work) for place in places for work in _AT_WORK)
    return any(file.endswith(path) and name == function for (file, name), (path, function) in pairs)


def raise_errors(parser: argparse.ArgumentParser) -> None:
    """Let a parser raise ValueError where argparse would print the whole usage and end the program.

    A list that cannot be read is told by its option, too, for fairseq's parsers evaluate it as they find it.
    """

    def error(message: str) -> None:
        raise ValueError(message)

    parser.error = error
    for action in parser._actions:
        if getattr(action.type, "__name__", "") == "<lambda>":
            action.type = _list_by(action.type)


def _list_by(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def numbers(text: str) -> Any:
        try:
            found, written = read(text), ast.literal_eval(text)
            # not 1.5 as 1
            whole = list(found) == (list(written) if isinstance(written, (list, tuple)) else [written])
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            whole = False
        if not whole or not found:
            raise argparse.ArgumentTypeError(
                f"a number, or several joined by commas, belongs there, not '{text}'"
            )
        return found

    return numbers
