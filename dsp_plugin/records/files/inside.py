"""Names of files that stand in files: they lead to nothing outside their folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def check_named(folder: str | os.PathLike, name: Any, source: str | os.PathLike) -> None:
    """Refuse what a file of a folder names as another file of it, and is none.

    Args:
        source: the file that names it, for the error.

    Raises:
        ValueError: it is no plain name, or a link that leads out of the folder.
    """
    is_name = isinstance(name, str) and name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}
    if not is_name:
        raise ValueError(f"{source} names {name!r}, which is no file of its folder: such a path is refused")
    check_inside(folder, Path(folder) / name)


def check_inside(folder: str | os.PathLike, path: str | os.PathLike, own: bool = False) -> None:
    """Refuse a link that leads out of the folder which it is in.

    In the cache of the Hugging Face hub every file of a model is a link to `blobs/`: to read, that is inside.

    Args:
        own: whether the file is to be changed: then the hub's files, which other models share, are outside,
            too.

    Raises:
        ValueError: naming the link.
    """
    root = Path(os.path.realpath(folder))
    roots = [root]
    if root.parent.name == "snapshots" and not own:
        roots.append(root.parent.parent / "blobs")
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(root) for root in roots):
        copy = f"; make a copy with files of its own: cp -rL {folder} COPY" if own else ""
        raise ValueError(f"{path} is a link out of its folder, to {real}: it is not followed{copy}")
