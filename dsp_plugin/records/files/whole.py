"""Writing a file or a folder whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ...options.errors import OptionError, labelled
from .scratch import scratch, take_place

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a link in a circle",
}


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path of the same name; the file that the body writes there replaces `path` on success.

    When the body or the renaming fails, `path` is as it was and the temporary file is gone. A process that is
    killed leaves `path` as it was, too, and a hidden folder beside it that the next writing of `path`
    removes. Of several processes that write `path` at once the last one's file stays, whole. Where `path` is
    a link, it stays one: what it leads to is replaced. Missing parent folders are made.

    Raises:
        FileExistsError: there is something at `path` that is no file: a folder, a device, a FIFO.
        OSError: the folder cannot be made or written (no space, no permission).
    """
    check_file(path)
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch(target) as folder:
        temporary = folder / target.name
        yield temporary
        if target.exists():
            shutil.copymode(target, temporary)
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())  # else a power cut can leave a renamed, empty file
        check_file(target)
        os.replace(temporary, target)


@contextlib.contextmanager
def new_folder(
    path: str | os.PathLike, mark: str | None, keep: Callable[[str], bool] | None = None
) -> Iterator[Path]:
    """Give an empty temporary folder; on success it becomes `path`, in one step.

    When the body fails, or the process is killed, `path` is as it was. A folder that is there already is
    replaced only if it is empty or holds the file `mark`: then it is an earlier result, and not something
    else of the user's.

    Args:
        mark: the name of a file. None: any folder is replaced.
        keep: name of a file or folder in the folder that is replaced -> whether the new one has it, too,
            where the body has written none of this name.

    Raises:
        FileExistsError: there is a file at `path`, or a folder with other contents.
        OSError: the folder cannot be made or written.
    """
    check_new_folder(path, mark)
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch(target) as folder:
        temporary = folder / target.name
        temporary.mkdir()
        yield temporary
        for parent, _, names in os.walk(temporary):
            for name in names:
                with open(os.path.join(parent, name), "rb") as handle:
                    os.fsync(handle.fileno())
        if target.exists():
            for entry in sorted(target.iterdir()):
                if keep is not None and keep(entry.name) and not os.path.lexists(temporary / entry.name):
                    link_entry(entry, temporary / entry.name)
            shutil.copymode(target, temporary)
        take_place(temporary, target)


def check_new_folder(path: str | os.PathLike, mark: str | None) -> None:
    """Raise the FileExistsError (NotADirectoryError, PermissionError) that `new_folder` would."""
    kind = kind_of(path)
    if kind == "a folder":
        if mark is not None and any(Path(path).iterdir()) and not (Path(path) / mark).is_file():
            raise FileExistsError(
                f"the folder {path} is there already and holds other things (no {mark}): name a new one"
            )
        if reason := why_not_replaceable(path):
            raise FileExistsError(f"the folder {path} {reason}: name a folder in it")
    elif kind is not None or os.path.islink(path):
        raise FileExistsError(f"{path} is {kind or 'a file'}: name a folder")
    else:
        _check_parent(path)


def why_not_replaceable(folder: str | os.PathLike) -> str:
    """Say why a folder cannot give its place to another one; empty where it can."""
    target = os.path.realpath(folder)
    if os.path.ismount(target):
        return "is a mounted file system"
    if os.path.commonpath([target, os.path.realpath(os.getcwd())]) == target:
        return "is the working folder"  # which would be the old one for ever
    writable = os.access(os.path.dirname(target), os.W_OK | os.X_OK)
    return "" if writable else "lies in one that cannot be written"


def check_output(option: str, path: str | os.PathLike, inputs: Mapping[str, object] | None = None) -> None:
    """Check, before work is begun, that a file can be written.

    Args:
        option: names `path`, a file that is to be written; an option's name, or other words (`labelled`).
        inputs: option -> path that is read, None where it was not given.

    Raises:
        ValueError: the output is one of the inputs, and would write over it; or there is something that is no
            file, such as a folder or a device; or nothing can be written there.
    """
    check_not_read(option, path, inputs or {})
    try:
        check_file(path)
    except OSError as error:
        raise labelled(option, str(error)) from None


def check_not_read(option: str, path: str | os.PathLike, inputs: Mapping[str, object]) -> None:
    """Raise a ValueError where an output is one of the inputs. Arguments as `check_output`."""
    for name, read in inputs.items():
        there = read is not None and os.path.exists(path) and os.path.exists(str(read))
        if there and os.path.samefile(path, str(read)):
            if option.isidentifier() and name.isidentifier():
                raise OptionError(option, f"{path} is what {{}} reads: name another one", name)
            raise labelled(option, f"{path} is what {name} reads: name another one")


def check_output_folder(option: str, path: str | os.PathLike, mark: str | None) -> None:
    """Check, before work is begun, that `new_folder` can make the folder that `option` names.

    Raises:
        ValueError: see `check_new_folder`.
    """
    try:
        check_new_folder(path, mark)
    except OSError as error:
        raise ValueError(f"{option}: {error}") from None


def check_file(path: str | os.PathLike) -> None:
    """Refuse to write a file at `path` if there is anything else, or no folder to write it into.

    Raises:
        FileExistsError: a folder, a device, a FIFO or a socket is there. NotADirectoryError, PermissionError:
            of its folder.
    """
    text = os.fspath(path)
    kind = kind_of(text)
    if kind is None and (text == "" or text.endswith(os.sep)):
        kind = "the name of a folder"
    if kind not in (None, "a file"):
        raise FileExistsError(f"{text or repr(text)} is {kind}: name a file")
    _check_parent(text)


def check_folder(option: str, path: str | os.PathLike) -> None:
    """Refuse a folder to write into that cannot be one.

    Raises:
        ValueError: `option`, which names it, leads to a file, a device ..., or nothing can be written there.
    """
    kind = kind_of(path)
    if kind not in (None, "a folder"):
        raise labelled(option, f"{path} is {kind}: name a folder")
    try:
        _check_parent(os.path.join(path, "."))
    except OSError as error:
        raise labelled(option, str(error)) from None


def kind_of(path: str | os.PathLike) -> str | None:
    """Say what is at `path`, links followed: "a file", "a folder", "a device" ...; None for nothing."""
    try:
        mode = os.lstat(os.path.realpath(path)).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    return "a file" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no file")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all (see `replacing`)."""
    with replacing(path) as temporary:
        # newline="": line ends are the caller's (the csv module writes its own)
        with open(temporary, "w", encoding="utf-8", newline="") as handle:
            handle.write(text)


def _check_parent(path: str | os.PathLike) -> None:
    """Look at the nearest thing above `path` that is there.

    Raises:
        NotADirectoryError: it is no folder.
        PermissionError: nothing can be written in it.
    """
    above = Path(os.path.realpath(path)).parent
    while not os.path.lexists(above):
        above = above.parent
    if not above.is_dir():
        raise NotADirectoryError(f"{path} cannot be written: {above} is no folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written: no permission to write into {above}")


def link_entry(source: Path, target: Path) -> None:
    """Make a file or folder once more by hard links, or copies where there can be none. Links stay links."""

    def link(one: str, other: str) -> None:
        try:
            os.link(one, other, follow_symlinks=False)
        except OSError:
            shutil.copy2(one, other, follow_symlinks=False)

    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, copy_function=link)
    else:
        link(os.fspath(source), os.fspath(target))
