"""Is a file of `torch.save` still what was written? Its zip entries have CRC32s that torch never compares.

Every byte of such a file is an entry's, checked by its CRC32, or part of the archive's own tables, which say
everything twice. So a flipped bit, a cut and an appended tail are all found, and each entry is exactly where
torch will read it.
"""

from __future__ import annotations

import os
import struct
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from typing import BinaryIO

_CHUNK = 1 << 20
_LOCAL = struct.Struct("<4s5H3I2H")  # APPNOTE.TXT 4.3.7
_CENTRAL = struct.Struct("<4s6H3I5H2I")  # 4.3.12
_END = struct.Struct("<4s4H2IH")  # 4.3.16
_END64 = struct.Struct("<4sQ2H2I4Q")  # 4.3.14
_LOCATOR64 = struct.Struct("<4sIQI")  # 4.3.15
_HAS_DESCRIPTOR = 0x8
_UTF8 = 0x800
_IS_FOLDER = 0x10  # the DOS attribute, by which torch goes


@dataclass(frozen=True)
class Entry:
    """One record of the archive: where its bytes start in the file, and how many there are."""

    offset: int
    size: int


def starts_as_zip(file: BinaryIO) -> bool:
    """Say whether a file begins as torch's zip format does; files of torch before 1.6 do not."""
    file.seek(0)
    return file.read(4) == b"PK\x03\x04"


def check_torch_zip(path: str | os.PathLike) -> None:
    """Compare everything in a file of `torch.save` with its checksums; about a second a gigabyte.

    Raises:
        ValueError: the file is damaged, or no archive that torch writes; says where.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        entries_of_torch_zip(file, str(path))


def entries_of_torch_zip(file: BinaryIO, path: str) -> dict[str, Entry]:
    """Check an open archive; its entries by name, without the folder that torch puts them in.

    Args:
        file: open for reading; its position is moved.
        path: for messages.

    Raises:
        ValueError: as `check_torch_zip`.
    """
    try:
        start, found = _directory(file)
    except (
        zipfile.BadZipFile,
        struct.error,
        UnicodeError,
        EOFError,
        ValueError,
        NotImplementedError,
    ) as error:
        raise ValueError(f"{path} is damaged: its directory cannot be read ({error})") from None
    try:
        return _check(file, start, found, path)
    except struct.error:
        raise ValueError(f"{path} is damaged: it ends within a header") from None


def _directory(file: BinaryIO) -> tuple[int, list[zipfile.ZipInfo]]:
    """Find where the central directory starts, and its entries in the order of the file.

    Every reader must find the same directory: nothing may follow it, and the two tables at the end must
    agree.
    """
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - _END.size))
    mark, disk, first_disk, here, total, size, start, comment = _END.unpack(file.read(_END.size))
    if mark != b"PK\x05\x06" or comment or disk or first_disk or here != total:
        raise ValueError("no end record at its end")
    behind = length - _END.size
    file.seek(max(0, behind - _LOCATOR64.size))
    locator = file.read(_LOCATOR64.size)
    if locator[:4] == b"PK\x06\x07":
        _, disk, end64, disks = _LOCATOR64.unpack(locator)
        behind -= _LOCATOR64.size + _END64.size
        if disk or disks != 1 or end64 != behind:
            raise ValueError("the end record is not where it is said to be")
        file.seek(end64)
        fields = _END64.unpack(file.read(_END64.size))
        mark, rest, _, _, disk, first_disk, here64, total64, size64, start64 = fields
        if mark != b"PK\x06\x06" or rest != _END64.size - 12 or disk or first_disk or here64 != total64:
            raise ValueError("a damaged end record")
        for short, long, most in (
            (total, total64, 0xFFFF),
            (size, size64, 0xFFFFFFFF),
            (start, start64, 0xFFFFFFFF),
        ):
            if short not in (long, most):
                raise ValueError("its two end records differ")
        total, size, start = total64, size64, start64
    if start + size != behind:
        raise ValueError("the directory is not where it is said to be")
    file.seek(0)
    found = zipfile.ZipFile(file).infolist()
    if len(found) != total or any(entry.volume for entry in found):
        raise ValueError(f"{len(found)} entries here, {total} in all")
    # zipfile reads a name that is too long as far as it goes
    if _end_of_directory(file, start, total) != start + size:
        raise ValueError("its entries do not fill it")
    if any(entry.external_attr & _IS_FOLDER for entry in found):
        raise ValueError("an entry is a folder")
    return start, sorted(found, key=lambda entry: entry.header_offset)


def _end_of_directory(file: BinaryIO, position: int, total: int) -> int:
    """Find where the last of the entries ends that begin at `position`, by the lengths they state."""
    for _ in range(total):
        file.seek(position)
        position += _CENTRAL.size + sum(_CENTRAL.unpack(file.read(_CENTRAL.size))[10:13])
    return position


def _check(file: BinaryIO, start: int, found: list[zipfile.ZipInfo], path: str) -> dict[str, Entry]:
    """The entries, which must fill the file from its first byte to the directory at `start` without a gap."""
    entries: dict[str, Entry] = {}
    folder = found[0].orig_filename.partition("/")[0] + "/" if found else ""
    # none at all: written under torch.serialization.set_crc32_options(False)
    summed = any(entry.CRC for entry in found)
    if found and not summed:
        unknown = "was written without checksums: nobody can tell whether it is damaged"
        warnings.warn(f"{path} {unknown}", stacklevel=4)
    ends = [entry.header_offset for entry in found[1:]] + [start]
    position, lowered = 0, set()
    for entry, end in zip(found, ends):
        name = entry.orig_filename
        short = name[len(folder) :]
        where = f"{short[:80]!r}"
        if not name.startswith(folder) or not short or "\0" in name:
            raise ValueError(f"{path} is damaged: an entry is called {name[:80]!r}")
        if short.lower() in lowered:  # torch finds entries by name, in any case
            raise ValueError(f"{path} is damaged: two entries are called {where}")
        lowered.add(short.lower())
        if entry.header_offset != position:
            raise ValueError(f"{path} is damaged: bytes that belong to no entry, or to two, before {where}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError(f"{path}: {where} is compressed, and torch compresses nothing")
        data = _check_header(file, entry, f"{path} is damaged: the header of {where}")
        size = entry.file_size
        if data + size > end:
            raise ValueError(f"{path} is damaged: {where} is longer than its place")
        file.seek(data)
        if summed and _crc32(file, size) != entry.CRC:
            raise ValueError(f"{path} is damaged: the contents of {where} are not what was written")
        file.seek(data + size)
        if file.read(min(end - data - size, 25)) not in _descriptors(entry):
            raise ValueError(f"{path} is damaged: bytes that belong to no entry after {where}")
        entries[short] = Entry(data, size)
        position = end
    if position != start:
        raise ValueError(f"{path} is damaged: bytes that belong to no entry")
    return entries


def _check_header(file: BinaryIO, entry: zipfile.ZipInfo, damage: str) -> int:
    """Compare an entry's local header with the directory's; return where its contents start."""
    file.seek(entry.header_offset)
    fields = _LOCAL.unpack(file.read(_LOCAL.size))
    mark, _, flags, method, _, _, crc, packed, size, name_length, extra = fields
    name = file.read(name_length)
    if mark != b"PK\x03\x04" or method or flags != entry.flag_bits or flags & ~(_HAS_DESCRIPTOR | _UTF8):
        raise ValueError(damage)
    if name != entry.orig_filename.encode("utf-8" if flags & _UTF8 else "cp437"):
        raise ValueError(damage)
    stated = {(entry.CRC, value, value) for value in (entry.file_size, 0xFFFFFFFF)}
    if flags & _HAS_DESCRIPTOR:  # it tells the sizes behind the contents
        stated |= {(0, value, value) for value in (0, 0xFFFFFFFF)}
    if (crc, packed, size) not in stated:
        raise ValueError(damage)
    return entry.header_offset + _LOCAL.size + name_length + extra


def _descriptors(entry: zipfile.ZipInfo) -> list[bytes]:
    """List what may stand behind an entry's contents: of miniz nothing if empty, long ones from 4 GiB on."""
    if not entry.flag_bits & _HAS_DESCRIPTOR:
        return [b""]
    forms = [struct.pack("<4sI2Q", b"PK\x07\x08", entry.CRC, entry.file_size, entry.file_size)]
    if entry.file_size <= 0xFFFFFFFF:
        forms.append(struct.pack("<4s3I", b"PK\x07\x08", entry.CRC, entry.file_size, entry.file_size))
    return forms if entry.file_size else [b"", *forms]


def _crc32(file: BinaryIO, size: int) -> int:
    crc = 0
    while size > 0:
        chunk = file.read(min(size, _CHUNK))
        if not chunk:
            break
        crc, size = zlib.crc32(chunk, crc), size - len(chunk)
    return crc
