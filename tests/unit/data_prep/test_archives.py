"""Archives in data-prep: more than the data set's files can be, names outside and links are refused before
anything is unpacked.
"""

from __future__ import annotations

import gzip
import io
import stat
import struct
import sys
import tarfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "data-prep"))

import archives
import download_glue_data as glue
import iwslt14_archive
from archives import MEGABYTE, ArchiveError, read_gz, read_tar, unpack_zip, whole_file
from pairs import CorpusError, read_pair

SIZES = {"a.txt": 1000, "b.txt": 2000}


def tar_of(path: Path, *members, mode: str = "w:gz", **options) -> Path:
    """members: (name, bytes) or a TarInfo."""
    with tarfile.open(path, mode, **options) as tar:
        for member in members:
            if isinstance(member, tuple):
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
            else:
                tar.addfile(member)
    return path


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zip_of(path: Path, *members, packing: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as packed:
        for name, content in members:
            packed.writestr(name, content)
    return path


def zip_link(name: str, target: str, kind: int = stat.S_IFLNK) -> tuple:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    return info, target


GOOD = (("x/a.txt", b"A" * 9), ("y/b.txt", b"B" * 2000), ("README", b"more"))


@pytest.mark.parametrize("mode", ["w:gz", "w"])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_a_tar_is_read(tmp_path, mode, form):
    path = tar_of(tmp_path / "a.tgz", special("x", tarfile.DIRTYPE), *GOOD, mode=mode, format=form)
    assert read_tar(path, SIZES) == {"a.txt": b"A" * 9, "b.txt": b"B" * 2000}


TARS = {
    "a file too large": (GOOD[:1] + (("b.txt", b"B" * 2001),), "b.txt has"),
    "a file twice": (GOOD + (("z/a.txt", b""),), "a.txt twice"),
    "an absolute name": (GOOD + (("/etc/a", b""),), "leads out"),
    "a name outside": (GOOD + (("x/../../a", b""),), "leads out"),
    "a name outside in Windows": (GOOD + (("x\\..\\a", b""),), "leads out"),
    "a drive": (GOOD + (("C:a", b""),), "leads out"),
    "a link": (GOOD + (special("l", tarfile.SYMTYPE, "/etc/passwd"),), "is a link"),
    "a wanted link": (GOOD[1:] + (special("a.txt", tarfile.SYMTYPE, "/etc/passwd"),), "is a link"),
    "a hard link": (GOOD + (special("l", tarfile.LNKTYPE, "x/a.txt"),), "is a link"),
    "a device": (GOOD + (special("d", tarfile.CHRTYPE),), "is a link, a device"),
    "a fifo": (GOOD + (special("d", tarfile.FIFOTYPE),), "is a link, a device"),
    "a sparse file": (GOOD[1:] + (special("a.txt", tarfile.GNUTYPE_SPARSE),), "sparse"),
    "many files": (
        GOOD + tuple((f"f{number}", b"") for number in range(archives.MEMBERS)),
        "more than 2000 files",
    ),
    "a bomb beside": (GOOD + (("c", bytes(40 * MEGABYTE)),), "unpacks to more than"),
}


@pytest.mark.parametrize("case", TARS)
def test_a_tar_with_anything_odd_is_refused(tmp_path, case):
    members, reason = TARS[case]
    with pytest.raises(ArchiveError, match=rf"a\.tgz.*{reason}"):
        read_tar(tar_of(tmp_path / "a.tgz", *members), SIZES)


def bounded(function, *arguments, memory: int = 20 * MEGABYTE, seconds: float = 3) -> None:
    """That it is refused within these bounds."""
    tracemalloc.start()
    begin = time.process_time()
    try:
        with pytest.raises((ArchiveError, CorpusError), match="unpacks to more|has|lacks|cannot be read"):
            function(*arguments)
    finally:
        spent, peak = time.process_time() - begin, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert spent < seconds and peak < memory, f"{spent:.1f} s, {peak:,} bytes"


def header_of(size: int, kind: bytes = tarfile.REGTYPE, name: str = "a.txt") -> bytes:
    """A tar header that announces so many bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "content",
    [
        header_of(10**12),
        header_of(10**12, name="other") + bytes(100 * MEGABYTE),
        header_of(10**9, tarfile.GNUTYPE_LONGNAME) + b"n" * (100 * MEGABYTE),
        header_of(10**9, tarfile.XHDTYPE) + b"9" * (100 * MEGABYTE),
        header_of(10, tarfile.XHDTYPE) * 20_000,
        header_of(0, tarfile.GNUTYPE_LONGNAME) * 20_000,
        header_of(900) + b"cut",
        b"garbage" * 999,
        b"",
    ],
    ids="huge huge-beside long-name long-attributes attributes-of-attributes names-of-names cut garbage "
    "empty".split(),
)
def test_tars_that_announce_more_than_there_is_or_hide_it(tmp_path, content):
    (tmp_path / "a.tgz").write_bytes(gzip.compress(content, 1))
    bounded(read_tar, tmp_path / "a.tgz", SIZES)


def test_a_zip_is_unpacked(tmp_path):
    (tmp_path / "out").mkdir()
    unpack_zip(
        zip_of(tmp_path / "a.zip", *GOOD, ("original/a.txt", b"no"), ("T/Icon\r", b"")),
        tmp_path / "out",
        SIZES,
        "original",
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        "a.txt": b"A" * 9,
        "b.txt": b"B" * 2000,
    }


ZIPS = {
    "a file too large": (GOOD[:1] + (("b.txt", b"B" * 2001),), "b.txt has"),
    "a file twice": (GOOD + (("z/a.txt", b""),), "a.txt twice"),
    "a file missing": (GOOD[1:], "lacks a.txt"),
    "an absolute name": (GOOD + (("/etc/a", b""),), "leads out"),
    "a name outside": (GOOD + (("x/../../a", b""),), "leads out"),
    "a name outside in Windows": (GOOD + (("..\\a", b""),), "leads out"),
    "a link": (GOOD + (zip_link("l", "/etc/passwd"),), "is a link"),
    "a wanted link": (GOOD[1:] + (zip_link("x/a.txt", "/etc/passwd"),), "is a link"),
    "a device": (GOOD + (zip_link("l", "", stat.S_IFCHR),), "is a link or a device"),
    "many files": (
        GOOD + tuple((f"f{number}", b"") for number in range(archives.MEMBERS)),
        "more than 2000 files",
    ),
    "a bomb": (GOOD[1:] + (("a.txt", bytes(40 * MEGABYTE)),), "a.txt has 40 MB"),
}


@pytest.mark.parametrize("case", ZIPS)
def test_a_zip_with_anything_odd_is_refused_and_nothing_unpacked(tmp_path, case):
    members, reason = ZIPS[case]
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchiveError, match=rf"a\.zip.*{reason}"):
        unpack_zip(zip_of(tmp_path / "a.zip", *members), tmp_path / "out", SIZES, "original")
    assert not list((tmp_path / "out").iterdir())


def test_a_zip_that_lies_of_a_size_or_a_checksum_is_refused_and_nothing_unpacked(tmp_path):
    (tmp_path / "out").mkdir()
    raw = zip_of(tmp_path / "a.zip", ("a.txt", bytes(30 * MEGABYTE)), ("b.txt", b"B")).read_bytes()
    small = raw.replace(struct.pack("<I", 30 * MEGABYTE), struct.pack("<I", 900))
    stored = zip_of(tmp_path / "b.zip", *GOOD, packing=zipfile.ZIP_STORED).read_bytes()
    for bad in (
        small,
        stored.replace(b"BBBB", b"CBBB", 1),
        stored[:-30],
        b"PK",
        stored.replace(b"a.txt", b"c.txt"),
    ):
        (tmp_path / "a.zip").write_bytes(bad)
        bounded(unpack_zip, tmp_path / "a.zip", tmp_path / "out", {**SIZES, "b.txt": 2000}, "original")
        assert not list((tmp_path / "out").iterdir())


def test_a_gz_of_text_is_read_and_a_bomb_is_not(tmp_path):
    text = "".join(f"Satz {number} von vielen.\n" for number in range(200_000)).encode()
    (tmp_path / "train.de.gz").write_bytes(gzip.compress(text))
    assert read_gz(tmp_path / "train.de.gz") == text
    with pytest.raises(ArchiveError, match="more than 1 MB"):
        read_gz(tmp_path / "train.de.gz", MEGABYTE)
    with gzip.open(tmp_path / "train.de.gz", "wb") as file:
        for _ in range(100):
            file.write(bytes(MEGABYTE))
    (tmp_path / "train.en.gz").write_bytes(gzip.compress(b"a\n"))
    bounded(read_pair, tmp_path / "train", memory=100 * MEGABYTE)
    (tmp_path / "train.de.gz").write_bytes(gzip.compress(text)[:-9])
    with pytest.raises(CorpusError, match="train.de.gz cannot be read"):
        read_pair(tmp_path / "train")


def test_the_data_sets_own_programs_are_bounded(tmp_path):
    bomb = tar_of(
        tmp_path / "de-en.tgz", *((f"de-en/{name}", bytes(65 * MEGABYTE)) for name in iwslt14_archive.TRAIN)
    )
    bounded(iwslt14_archive.members, bomb, memory=20 * MEGABYTE)
    folder = tmp_path / "RTE"
    folder.mkdir()
    zip_of(folder / "RTE.zip", *((f"RTE/{name}", bytes(9 * MEGABYTE)) for name in glue.SOURCES["RTE"].rows))
    with pytest.raises(glue.GlueError, match="train.tsv has 9 MB, where 3 MB are plenty"):
        glue.unpack("RTE", folder / "RTE.zip", folder)
    assert not list(folder.iterdir())


def test_a_failed_write_is_no_fault_of_the_archive(tmp_path):
    path = zip_of(tmp_path / "a.zip", *GOOD)
    with pytest.raises(NotADirectoryError):
        unpack_zip(path, path, SIZES, "original")


def test_a_file_gets_its_name_when_it_is_whole_and_no_link_is_followed(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "got.part").symlink_to("victim")
    with pytest.raises(KeyError), whole_file(tmp_path / "got") as out:
        out.write(b"half")
        raise KeyError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["got.part", "victim"]
    with whole_file(tmp_path / "got") as out:
        out.write(b"whole")
    assert (tmp_path / "got").read_bytes() == b"whole" and (tmp_path / "victim").read_text() == "mine"
