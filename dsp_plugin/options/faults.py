"""An exception in one line for a user, whichever library raised it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from .errors import OptionError, Spelling
from .terminal import printable

# Exceptions whose text is an answer by itself; of others the text alone says little: KeyError's is a lone
# name.
_TOLD = (ValueError, ImportError, NotImplementedError)
_LONGEST = 600


def one_line(error: BaseException, spelling: Spelling = str) -> str:
    """Say what is wrong, in one line without control characters.

    The file of an OSError stands first; of an exception without words its type is named.

    Args:
        spelling: how options are to be named, see `OptionError`.
    """
    if isinstance(error, MemoryError):
        return f"out of memory{_after(error)}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        places = [
            os.fsdecode(name)
            for name in (error.filename, error.filename2)
            if isinstance(name, (str, bytes, os.PathLike))
        ]
        return _flat(f"{' -> '.join(places)}: {error.strerror}" if places else str(error))
    if isinstance(error, KeyError):
        return _flat(f"an entry is missing: {', '.join(map(repr, error.args)) or 'KeyError'}")
    text = _flat(error.spelled(spelling) if isinstance(error, OptionError) else str(error))
    if isinstance(error, (*_TOLD, OSError)) and text:
        return text
    return f"{type(error).__name__}{_after(error)}"


@contextlib.contextmanager
def naming(option: str, value: object) -> Iterator[None]:
    """Turn whatever goes wrong inside, beside an interrupt, into an error of this option and its value.

    Raises:
        OptionError: see above; one that names an option already stays as it is.
    """
    try:
        yield
    except OptionError:
        raise
    except Exception as error:
        raise OptionError(option, f"{value}: {one_line(error)}") from error


def _after(error: BaseException) -> str:
    text = _flat(str(error))
    return f": {text}" if text else ""


def _flat(text: str) -> str:
    line = printable(" ".join(text.split()), keep="")
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 4]} ..."
