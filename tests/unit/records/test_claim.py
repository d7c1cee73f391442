"""One program at a time in a folder; the claim ends with its process, however that ends."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
from claims import at_work

from dsp_plugin.records.files.claim import LOCK, claim, claimed, give_back

ROOT = Path(__file__).resolve().parents[3]


def test_another_program_is_refused_by_name_until_the_first_ends(tmp_path):
    with at_work(tmp_path / "runs") as other:
        with pytest.raises(
            ValueError,
            match=rf"^--output_dir .*runs is in use by process {other.pid} on .*: wait for its end, or",
        ):
            claim("--output_dir", tmp_path / "runs")
        assert os.listdir(tmp_path / "runs") == [LOCK]
    with claimed("--output_dir", tmp_path / "runs"):  # killed: what it left is no claim
        pass
    assert os.listdir(tmp_path / "runs") == []


def test_a_worker_that_outlives_its_killed_program_holds_nothing(tmp_path):
    """Loaders of data are forked, and notice late that they are alone."""
    fork = "import os\nif not os.fork():\n    print(os.getpid(), flush=True)\ntime.sleep(600)"
    with at_work(tmp_path, fork) as other:
        worker = int(other.stdout.readline())
    try:
        with claimed("--save-dir", tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_program_may_claim_its_folder_again(tmp_path):
    ask = "from dsp_plugin.records.files.claim import claim\nimport sys\nclaim('--save-dir', sys.argv[1])"
    words = [sys.executable, "-c", ask, str(tmp_path)]
    with claimed("--save-dir", tmp_path):
        with claimed("--save-dir", tmp_path):
            pass
        assert (
            "is in use by process" in subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stderr
        )
    assert subprocess.run(words, cwd=ROOT).returncode == 0


def test_an_end_that_comes_twice_ends_no_other_claim(tmp_path):
    first = claim("--save-dir", tmp_path)
    give_back(first)
    give_back(first)
    with claimed("--save-dir", tmp_path):
        assert os.listdir(tmp_path) == [LOCK]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EROFS])
def test_where_nothing_can_be_locked_it_is_said_and_work_goes_on(code, tmp_path, monkeypatch, capsys):
    def no_locks(*arguments, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    with claimed("--save-dir", tmp_path):
        (tmp_path / "done").touch()
    assert f"{tmp_path} cannot be locked ([Errno {code}]" in capsys.readouterr().err


def test_somebodys_link_is_not_written_through(tmp_path, capsys):
    (tmp_path / "victim").write_text("of the user")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / LOCK).symlink_to(tmp_path / "victim")
    with claimed("--save-dir", tmp_path / "runs"):
        pass
    assert (tmp_path / "victim").read_text() == "of the user"
    assert "cannot be locked" in capsys.readouterr().err


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    for name in ("file", "file/below"):
        with pytest.raises(ValueError, match="^--save-dir "):
            claim("--save-dir", tmp_path / name)
