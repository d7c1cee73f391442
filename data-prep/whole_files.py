"""Write whole files and folders as the package does, for programs that also run where it is not installed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

sys.path.append(str(Path(__file__).resolve().parents[1]))
from dsp_plugin.records.files.whole import check_file, check_folder, new_folder, replacing, write_text  # noqa: E402, F401


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name when the body has written it; nothing stays behind where that fails.

    Raises:
        OSError: it cannot be written, or there is something else than a file.
    """
    with replacing(path) as temporary, open(temporary, "wb") as out:
        yield out
