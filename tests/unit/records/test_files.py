"""Files are written whole or not at all, only where a file can be, and whatever else writes there at the
same time.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dsp_plugin.records.files.scratch import recover, scratch
from dsp_plugin.records.files.whole import (
    check_folder,
    check_new_folder,
    check_output,
    new_folder,
    replacing,
    write_text,
)

ROOT = Path(__file__).resolve().parents[3]


def node(kind):
    def make(path):
        try:
            os.mknod(path, kind | 0o600, os.makedev(1, 3))  # as /dev/null, but ours
        except OSError as error:
            pytest.skip(f"device nodes cannot be made here: {error}")

    return make


def bind(path):
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)
    os.chdir(here)


NO_FILES = {
    "folder": (Path.mkdir, "is a folder"),
    "FIFO": (os.mkfifo, "is a FIFO"),
    "socket": (bind, "is a socket"),
    "character device": (node(stat.S_IFCHR), "is a device"),
    "block device": (node(stat.S_IFBLK), "is a device"),
    "link to a folder": (lambda path: path.symlink_to(path.parent), "is a folder"),
    "link to a FIFO": (lambda path: (os.mkfifo(path.parent / "fifo"), path.symlink_to("fifo")), "is a FIFO"),
    "link in a circle": (lambda path: path.symlink_to(path), "is a link in a circle"),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_refused_and_stays(kind, tmp_path):
    make, reason = NO_FILES[kind]
    path = tmp_path / "out"
    make(path)
    before = os.lstat(path)
    with pytest.raises(ValueError, match=f"^--out {path} {reason}: name a file"):
        check_output("--out", path)
    with pytest.raises(FileExistsError, match=reason):
        write_text(path, "text")
    if "folder" not in kind:
        with pytest.raises(FileExistsError, match=f"{reason}: name a folder"):
            check_new_folder(path, None)
        with pytest.raises(ValueError, match=f"^--output_dir {path} {reason}: name a folder"):
            check_folder("--output_dir", path)
    after = os.lstat(path)
    assert (after.st_mode, after.st_ino, after.st_rdev) == (before.st_mode, before.st_ino, before.st_rdev)
    assert set(os.listdir(tmp_path)) <= {"out", "fifo"}


@pytest.mark.parametrize("name", ["", "new/", "file/below", "file/below/it"])
def test_where_no_file_can_be_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("of the user")
    with pytest.raises(ValueError, match="^--out "):
        check_output("--out", name)
    with pytest.raises(OSError):
        with replacing(name) as temporary:
            temporary.write_text("text")
    assert os.listdir() == ["file"] and Path("file").read_text() == "of the user"


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    for there in (True, False):
        target, link = tmp_path / "disk" / f"file{there}", tmp_path / f"link{there}"
        if there:
            target.write_text("old")
        link.symlink_to(target)
        write_text(link, "new")
        assert link.is_symlink() and not target.is_symlink() and target.read_text() == "new"
    assert sorted(os.listdir(tmp_path / "disk")) == ["fileFalse", "fileTrue"]


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_new_file_and_stay_those_of_an_old_one(umask, mode, tmp_path):
    old = os.umask(umask)
    try:
        write_text(tmp_path / "new", "text")
        (tmp_path / "old").touch()
        (tmp_path / "old").chmod(0o640)
        write_text(tmp_path / "old", "text")
        with new_folder(tmp_path / "folder", None):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == mode | (mode & 0o444) >> 2


def test_somebodys_file_or_link_of_the_old_temporary_names_is_left_alone(tmp_path):
    (tmp_path / "victim").write_text("of the user")
    for name in ("out.part", "out.tmp", f".out.{os.getpid()}.tmp"):
        (tmp_path / name).symlink_to(tmp_path / "victim")
    write_text(tmp_path / "out", "text")
    assert (tmp_path / "victim").read_text() == "of the user" and (tmp_path / "out").read_text() == "text"


def test_a_name_as_long_as_names_can_be(tmp_path):
    for name in ("n" * 255, "ü" * 127):
        write_text(tmp_path / name, "text")
        write_text(tmp_path / name, "new")
        assert (tmp_path / name).read_text() == "new"
    assert len(os.listdir(tmp_path)) == 2


WRITER = """
import sys, time
from dsp_plugin.records.files.whole import replacing
path, letter = sys.argv[1:]
for _ in range(20):
    with replacing(path) as temporary:
        with open(temporary, "w") as file:
            for _ in range(100):
                file.write(letter * 1000)
                file.flush()
"""


def test_two_processes_with_one_output_never_show_half_a_file(tmp_path):
    path = tmp_path / "out"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), letter], cwd=ROOT) for letter in "ab"
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            seen.add(path.read_text())
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen <= {"a" * 100_000, "b" * 100_000} and seen
    assert os.listdir(tmp_path) == ["out"]


KILLED = """
import os, signal, sys
from dsp_plugin.records.files import whole as files
with files.replacing(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_goes_with_the_next_writing_and_nothing_else(tmp_path):
    path = tmp_path / "out"
    write_text(path, "old")
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT).returncode == -signal.SIGKILL
    assert path.read_text() == "old" and len(os.listdir(tmp_path)) == 2
    others = [".out.abcdefgh.tmp.bak", ".outer.abcdefgh.tmp", "out.abcdefgh.tmp", ".out.ABCDEFGH.tmp"]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / ".out.aaaaaaaa.tmp").write_text("a file of somebody's")
    (tmp_path / ".out.bbbbbbbb.tmp").symlink_to(tmp_path / others[0])
    with scratch(path) as held:  # of a process that lives
        write_text(path, "new")
        assert held.is_dir()
    assert path.read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == sorted(["out", *others, ".out.aaaaaaaa.tmp", ".out.bbbbbbbb.tmp"])


def test_a_folder_lost_between_two_renames_comes_back(tmp_path):
    """As where two folders cannot change places in one step."""
    left = tmp_path / ".out.abcdefgh.tmp"
    (left / ".old").mkdir(parents=True)
    (left / ".old" / "weights").write_text("old")
    recover(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out" / "weights").read_text() == "old"
