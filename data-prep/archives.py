"""Reading archives that came from elsewhere: no more than was asked for, and nothing where anything is odd.

Every name, kind and size of an archive is checked before the first file is read, and what is unpacked is
counted while it is read: a header may say less than there is. Links, devices, absolute names and ".." are in
no data set's archive.
"""

from __future__ import annotations

import contextlib
import gzip
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from whole_files import whole_file

MEMBERS = 2000  # in an archive; those of the data sets have up to some 50
MEGABYTE = 1 << 20


class ArchiveError(Exception):
    """An archive that is damaged, or not the data set's; the message names it and what is wrong."""


def read_gz(path: Path, at_most: int | None = None) -> bytes:
    """Read what a .gz of text holds.

    Args:
        at_most: bytes; by default so many as no text that was compressed to the file's size has.

    Raises:
        ArchiveError: it is damaged, or holds more.
    """
    at_most = 16 * MEGABYTE + 20 * path.stat().st_size if at_most is None else at_most
    with _errors(path), gzip.open(path) as file:
        return b"".join(_Counted(file, path, at_most))


def read_tar(path: Path, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Read files of a .tar or .tar.gz by their names without folders, such as are there.

    Args:
        sizes: the names that are wanted -> bytes that each has at most. All others together may have as many.

    Raises:
        ArchiveError: the archive is damaged or larger, has a link, a device or a name outside itself, or a
            file twice.
    """
    found: dict[str, bytes] = {}
    for reading in (False, True):  # the first time nothing but the headers is looked at
        seen: set[str] = set()
        with _errors(path), open(path, "rb") as raw, contextlib.ExitStack() as stack:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream = stack.enter_context(gzip.open(raw)) if compressed else raw
            counted = _Counted(stream, path, 2 * sum(sizes.values()) + MEGABYTE)
            tar = stack.enter_context(tarfile.open(fileobj=counted, mode="r|"))
            for number, member in enumerate(tar):
                _check_count(path, number)
                _check_name(path, member.name)
                if not (member.isreg() or member.isdir()) or member.issparse():
                    raise ArchiveError(f"{path}: {member.name!r} is a link, a device or a sparse file")
                name = PurePosixPath(member.name).name
                if member.isreg() and name in sizes:
                    _check_file(path, name, member.size, sizes[name], seen)
                    if reading:
                        found[name] = tar.extractfile(member).read()
    return found


def unpack_zip(path: Path, folder: Path, sizes: Mapping[str, int], without: str) -> None:
    """Unpack files of a .zip, whatever folder of it they are in, into `folder`: all of them, or none.

    Args:
        sizes: the names that are wanted -> bytes that each has at most. without: a folder in it that is
            passed over.

    Raises:
        ArchiveError: the archive is damaged or larger, has a link, a device or a name outside itself, a file
            twice or not.
        OSError: they cannot be written.
    """
    wanted: dict[str, zipfile.ZipInfo] = {}
    with _errors(path), zipfile.ZipFile(path) as archive:
        for number, member in enumerate(archive.infolist()):
            _check_count(path, number)
            _check_name(path, member.filename)
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the archive was not made on Unix
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ArchiveError(f"{path}: {member.filename!r} is a link or a device")
            name = PurePosixPath(member.filename)
            if not member.is_dir() and name.name in sizes and without not in name.parts:
                _check_file(path, name.name, member.file_size, sizes[name.name], {*wanted})
                wanted[name.name] = member
        if missing := [name for name in sizes if name not in wanted]:
            raise ArchiveError(f"{path} lacks {missing[0]}")
    with contextlib.ExitStack() as whole:
        outs = {name: whole.enter_context(whole_file(folder / name)) for name in wanted}
        for name, member in wanted.items():
            outs[name].writelines(_blocks(path, member, sizes[name]))


def _blocks(path: Path, member: zipfile.ZipInfo, at_most: int) -> Iterator[bytes]:
    with _errors(path), zipfile.ZipFile(path) as archive, archive.open(member) as source:
        yield from _Counted(source, path, at_most)


class _Counted:
    """Reads from a stream, and no more than so many bytes."""

    def __init__(self, stream, path: Path, at_most: int):
        self._stream, self._path, self._at_most, self._left = stream, path, at_most, at_most

    def read(self, size: int = -1) -> bytes:
        # one byte more than may be there shows that there is more
        block = self._stream.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(block)
        if self._left < 0:
            raise ArchiveError(
                f"{self._path} unpacks to more than {self._at_most / MEGABYTE:,.0f} MB: it is not the data "
                "set's archive"
            )
        return block

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.read(MEGABYTE), b"")


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Turn what the libraries below raise for damaged archives into one kind."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error) as error:
        raise ArchiveError(f"{path} cannot be read: {error}") from error
    except (
        ValueError,
        IndexError,
        KeyError,
        RuntimeError,
        NotImplementedError,
        OverflowError,
        MemoryError,
    ) as error:
        # RuntimeError: an encrypted file, or headers of headers without end
        raise ArchiveError(f"{path} cannot be read, it is damaged or not the data set's: {error}") from error


def _check_count(path: Path, number: int) -> None:
    if number >= MEMBERS:
        raise ArchiveError(f"{path} has more than {MEMBERS} files: it is not the data set's archive")


def _check_name(path: Path, name: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in name:
        raise ArchiveError(f"{path}: {name!r} leads out of the archive")


def _check_file(path: Path, name: str, size: int, at_most: int, seen: set[str]) -> None:
    if name in seen:
        raise ArchiveError(f"{path} has {name} twice")
    seen.add(name)
    if not 0 <= size <= at_most:
        raise ArchiveError(
            f"{path}: {name} has {size / MEGABYTE:,.0f} MB, where {at_most / MEGABYTE:,.0f} MB are plenty"
        )
