"""Compiled loops are kept where only this user can write, and nothing else is loaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from dsp_plugin.diffs import compiled

pytestmark = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler"
)

PROGRAM = """
import sys, warnings
from pathlib import Path
from dsp_plugin.diffs.compiled import load
warnings.showwarning = lambda message, *_: print("warning:", message)
library = load(Path(sys.argv[1]), "no loops")
print(None if library is None else library.answer())
"""


@pytest.fixture()
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DSP_NO_COMPILER", raising=False)
    path = tmp_path / "answer.cpp"
    path.write_text('extern "C" int answer() { return 42; }\n')
    return path


def answer(source: Path, expect: str = "") -> object:
    """What the library says, None where there is none; `expect` is in the one warning, "" for no warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        library = compiled.load(source, "no loops")
    assert [expect in str(warning.message) for warning in caught] == ([True] if expect else []), caught
    return None if library is None else library.answer()


def kept(tmp_path) -> list:
    return sorted(path for path in (tmp_path / "cache" / "dsp_plugin").iterdir())


def another(path: Path) -> bytes:
    """A library that answers 13, under the name of the one that answers 42."""
    other = path.parent.parent / "other.cpp"
    other.write_text('extern "C" int answer() { return 13; }\n')
    subprocess.run(
        [shutil.which("g++") or "clang++", "-fPIC", "-shared", str(other), "-o", str(other) + ".so"],
        check=True,
    )
    return Path(str(other) + ".so").read_bytes()


def rewrite(path: Path, content: bytes) -> None:
    path.unlink()  # this process has the old file loaded
    path.write_bytes(content)
    path.chmod(0o700)


def test_it_is_compiled_once(source, tmp_path, monkeypatch):
    assert answer(source) == 42
    (path,) = kept(tmp_path)
    made = path.stat().st_mtime_ns
    monkeypatch.setattr(compiled, "_build", None)
    assert answer(source) == 42 and kept(tmp_path) == [path] and path.stat().st_mtime_ns == made
    assert path.stat().st_mode & 0o777 == 0o700 and path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "change",
    [
        lambda path: rewrite(path, b""),
        lambda path: rewrite(path, path.read_bytes()[:-200]),
        lambda path: rewrite(path, path.read_bytes() + b"\0"),
        lambda path: rewrite(path, another(path)),
        lambda path: path.chmod(0o720),
        lambda path: path.chmod(0o702),
        lambda path: (path.rename(path.with_name("x")), path.symlink_to(path.with_name("x"))),
        lambda path: path.rename(path.with_name(path.name[:23] + ".so")),
        lambda path: path.rename(
            path.with_name(path.name.replace(path.name[30], "0" if path.name[30] != "0" else "1", 1))
        ),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: (path.unlink(), path.symlink_to(path.with_name("nothing"))),
    ],
    ids="empty cut longer another group-may-write others-may-write link no-checksum another-checksum fifo "
    "dangling".split(),
)
def test_a_file_that_is_not_what_was_compiled_is_compiled_anew(source, tmp_path, change):
    assert answer(source) == 42
    (path,) = kept(tmp_path)
    change(path)
    assert answer(source) == 42
    assert path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o777 == 0o700
    assert path.name.endswith(compiled.hashlib.sha256(path.read_bytes()).hexdigest() + ".so")


@pytest.mark.parametrize(
    "change",
    [
        lambda root: root.chmod(0o777),
        lambda root: root.chmod(0o770),
        lambda root: (root / "dsp_plugin").chmod(0o770),
        lambda root: (root / "dsp_plugin").chmod(0o1777),
        lambda root: (
            (root / "dsp_plugin").rename(root / "mine"),
            (root / "dsp_plugin").symlink_to(root / "mine"),
        ),
        lambda root: (shutil.rmtree(root / "dsp_plugin"), (root / "dsp_plugin").write_text("")),
        lambda root: (shutil.rmtree(root), root.write_text("")),
    ],
    ids="root-others root-group folder-group folder-sticky folder-link folder-is-a-file "
    "root-is-a-file".split(),
)
def test_nothing_is_loaded_from_or_kept_in_a_folder_that_others_may_write(source, tmp_path, change):
    assert answer(source) == 42
    (path,) = kept(tmp_path)
    planted = another(path)
    (tmp_path / "temporary").mkdir()
    path.unlink()
    bad = path.with_name(path.name[:24] + compiled.hashlib.sha256(planted).hexdigest() + ".so")
    bad.write_bytes(planted)
    bad.chmod(0o700)
    assert answer(source) == 13, "the table below would show nothing"
    change(tmp_path / "cache")
    before = sorted(tmp_path.rglob("*"))
    assert answer(source, "not kept, but made anew by each process") == 42
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_of_another_user_is_loaded(source, tmp_path, monkeypatch):
    assert answer(source) == 42
    me = os.geteuid()
    monkeypatch.setattr(compiled.os, "geteuid", lambda: me + 1)
    assert answer(source, "is not this user's alone") == 42
    # ours, and the file is not
    monkeypatch.setattr(compiled, "cache_folder", lambda: tmp_path / "cache" / "dsp_plugin")
    (path,) = kept(tmp_path)
    assert compiled.find(path.parent, path.name[7:23]) is None


@pytest.mark.parametrize("home", [None, "", "relative", "/nonexistent/home", "/dev/null", "/proc/home"])
def test_no_home_is_no_error(source, tmp_path, monkeypatch, home):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "mkdir", _not_above(Path.mkdir, tmp_path))
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
        import pwd

        def unknown(uid):
            raise KeyError(f"getpwuid(): uid not found: {uid}")

        monkeypatch.setattr(pwd, "getpwuid", unknown)
    else:
        monkeypatch.setenv("HOME", home)
    before = sorted(tmp_path.rglob("*"))
    assert answer(source, "not kept, but made anew by each process") == 42
    assert sorted(tmp_path.rglob("*")) == before


def _not_above(mkdir, tmp_path):
    """As for a user who may write nowhere else (root may make /nonexistent)."""

    def make(path, *args, **kwargs):
        if tmp_path not in (path, *path.parents) and not path.is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        return mkdir(path, *args, **kwargs)

    return make


@pytest.mark.parametrize("relative", ["", "relative"])
def test_a_relative_cache_is_as_none(source, tmp_path, monkeypatch, relative):
    monkeypatch.setenv("XDG_CACHE_HOME", relative)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert answer(source) == 42
    assert (tmp_path / "home" / ".cache" / "dsp_plugin").is_dir() and not (tmp_path / "relative").exists()


@pytest.mark.parametrize(
    "does, said",
    [
        ("exit 1", "exit status 1"),
        ("echo no such thing >&2; exit 1", "no such thing"),
        ("kill -9 $$", "SIGKILL"),
        ("exit 0", "No such file"),
        (': > "$made"', "too short|invalid|cannot"),
        ('echo garbage > "$made"', "invalid|too short|cannot"),
        ("sleep 60", "timed out"),
        (r"printf '\377\033[2J' >&2; exit 1", r"\\x1b\[2J"),
    ],
    ids="fails says killed makes-nothing makes-an-empty-file makes-garbage hangs says-bytes".split(),
)
def test_a_compiler_that_fails(source, tmp_path, monkeypatch, does, said):
    compiler = tmp_path / "c++"
    compiler.write_text(
        f'#!/bin/sh\ncase "$*" in *-shared*) for made; do :; done;; *) exit 0;; esac\n{does}\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(compiled, "SECONDS", 1)
    with pytest.warns(UserWarning, match=f"no loops, because .*c\\+\\+ failed: .*({said})"):
        assert compiled.load(source, "no loops") is None
    assert kept(tmp_path) == []
    monkeypatch.delenv("CXX")
    assert answer(source) == 42


def test_many_processes_at_once(source, tmp_path):
    runs = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(source)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [run.communicate()[0] for run in runs] == ["42\n"] * 2
    assert [path.suffix for path in kept(tmp_path)] == [".so"]
    assert answer(source) == 42
