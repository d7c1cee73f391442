"""A folder is written whole or not at all, and never over something else of the user's."""

from __future__ import annotations

import os

import pytest

from dsp_plugin.records.files import scratch
from dsp_plugin.records.files.whole import check_new_folder, new_folder

MARK = "certificate.json"


def write(path, content):
    with new_folder(path, MARK) as folder:
        (folder / MARK).write_text("{}")
        (folder / "weights").write_text(content)


def contents(path):
    return {file.name: (file / "weights").read_text() for file in path.iterdir()}


def test_it_is_made_with_its_parents_and_replaced_by_the_next(tmp_path):
    write(tmp_path / "a" / "out", "old")
    (tmp_path / "a" / "out" / "more").write_text("of the old one")
    write(tmp_path / "a" / "out", "new")
    assert contents(tmp_path / "a") == {"out": "new"}
    assert sorted(file.name for file in (tmp_path / "a" / "out").iterdir()) == [MARK, "weights"]


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", "new")
    assert contents(tmp_path) == {"out": "new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(error, tmp_path):
    write(tmp_path / "out", "old")
    for path in (tmp_path / "out", tmp_path / "another"):
        with pytest.raises(error):
            with new_folder(path, MARK) as folder:
                (folder / "weights").write_text("half")
                raise error
    assert contents(tmp_path) == {"out": "old"}


def test_other_folders_and_files_are_refused_before_anything_is_written(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, reason in (("folder", "holds other things"), ("file", "is a file"), ("link", "is a file")):
        for use in (lambda path: check_new_folder(path, MARK), lambda path: write(path, "new")):
            with pytest.raises(FileExistsError, match=reason):
                use(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "link"]
    check_new_folder(tmp_path / "free", MARK)


def other_files(name):
    return not name.startswith("weights")


def test_other_things_are_kept_where_asked_for(tmp_path):
    write(tmp_path / "out", "old")
    (tmp_path / "out" / "notes").mkdir()
    (tmp_path / "out" / "notes" / "thesis.tex").write_text("mine")
    (tmp_path / "out" / "link").symlink_to("nowhere")
    (tmp_path / "out" / "weights-2").write_text("old")
    with new_folder(tmp_path / "out", None, other_files) as folder:
        (folder / "weights").write_text("new")
    assert contents(tmp_path) == {"out": "new"}
    assert (tmp_path / "out" / "notes" / "thesis.tex").read_text() == "mine" and (
        tmp_path / "out" / "link"
    ).is_symlink()
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [MARK, "link", "notes", "weights"]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_reader_sees_the_old_folder_or_the_new_one(at_once, tmp_path, monkeypatch):
    """Every rename and exchange is looked at: whole before, whole after; where the system knows no
    exchange, never half.
    """
    if not at_once:
        monkeypatch.setattr(scratch, "_exchange", lambda one, other: False)
    write(tmp_path / "out", "old")
    seen = []

    def look(call):
        def looking(*arguments):
            seen.append((tmp_path / "out" / "weights").read_text() if (tmp_path / "out").exists() else None)
            result = call(*arguments)
            seen.append((tmp_path / "out" / "weights").read_text() if (tmp_path / "out").exists() else None)
            return result

        return looking

    monkeypatch.setattr(scratch.os, "rename", look(os.rename))
    monkeypatch.setattr(scratch, "_exchange", look(scratch._exchange))
    write(tmp_path / "out", "new")
    assert contents(tmp_path) == {"out": "new"}
    if at_once:
        assert seen == ["old", "new"]  # one step
    else:
        assert set(seen) == {"old", None, "new"} and seen[-1] == "new"


def test_a_folder_that_cannot_give_its_place_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "out" / "below").mkdir(parents=True)
    for here in (tmp_path / "out", tmp_path / "out" / "below"):
        monkeypatch.chdir(here)
        with pytest.raises(FileExistsError, match="is the working folder"):
            check_new_folder(tmp_path / "out", None)
    with pytest.raises(FileExistsError, match="is a mounted file system"):
        check_new_folder("/proc", None)
