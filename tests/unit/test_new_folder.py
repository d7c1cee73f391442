"""A folder is written whole or not at all, and never over something else of the user's."""

from __future__ import annotations

import pytest

from dsp_plugin.reports.files import check_new_folder, new_folder

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
