"""What an export is compared on: the folder that a checkpoint remembers may be another of that name here."""

from __future__ import annotations

import pytest

pytest.importorskip("fairseq")

import tiny_models as tiny

from dsp_plugin.mt.surgery.equality import task_and_pairs

HERE = {
    "absent": None,
    "empty": (),
    "of another layout": ("embedded/dict.de.txt", "embedded/train.de-en.de.idx"),
}


@pytest.fixture(params=HERE)
def remembered(request, tmp_path, monkeypatch):
    """The folder `data-bin` here, which the tiny checkpoints remember: without their data."""
    monkeypatch.chdir(tmp_path)
    if HERE[request.param] is not None:
        (tmp_path / "data-bin").mkdir()
    for name in HERE[request.param] or ():
        (tmp_path / "data-bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data-bin" / name).touch()
    return request.param


def compared(data=None, subset=None, words_needed=False):
    state = tiny.checkpoint(tiny.build(tiny.options()), tiny.options())
    return task_and_pairs(state["model"], state["cfg"], data, subset, 8, words_needed)


def test_a_remembered_folder_without_the_data_is_as_good_as_none(remembered):
    _, pairs, text = compared()
    assert text == "random tokens" and pairs


@pytest.mark.parametrize("needs", [{"words_needed": True}, {"subset": "test"}])
def test_where_the_words_are_needed_the_folder_is_asked_for(remembered, needs):
    message = "data-bin, where the checkpoint was trained, has no prepared data here.*give --data FOLDER"
    with pytest.raises(FileNotFoundError, match=message):
        compared(**needs)


def test_a_folder_that_was_asked_for_has_to_have_it(remembered):
    reason = "--data data-bin: no such folder" if remembered == "absent" else "data-bin has no prepared data"
    with pytest.raises((FileNotFoundError, ValueError), match=reason):
        compared(data="data-bin")
