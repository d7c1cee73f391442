"""A folder of binarised text that is damaged, or of other languages, is refused by the name of the file."""

from __future__ import annotations

import shutil
from argparse import Namespace

import pytest
import torch

pytest.importorskip("fairseq")

from fairseq import tasks
from fairseq_models import parse
from omegaconf import open_dict

import dsp_plugin

dsp_plugin.register()


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name, share=0.5):
    def change(folder):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(len(whole) * share)])

    return change


def remove(pattern):
    return lambda folder: [path.unlink() for path in list(folder.glob(pattern))]


def swap(folder):
    for end in ("idx", "bin"):
        shutil.copy(folder / f"valid.de-en.de.{end}", folder / f"train.de-en.de.{end}")


def half_the_words(folder):
    path = folder / "dict.en.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))


DAMAGE = {
    "no-folder": (lambda folder: shutil.rmtree(folder), "is not a folder"),
    "nothing": (remove("*"), "has no prepared data"),
    "no-dictionary": (remove("dict.en.txt"), r"dict\.en\.txt"),
    "empty-dictionary": (write("dict.de.txt", b""), r"dict\.de\.txt is empty"),
    "no-numbers": (write("dict.de.txt", b"hello\nworld\n"), r"dict\.de\.txt is no dictionary"),
    "bytes": (write("dict.de.txt", bytes(range(256))), r"dict\.de\.txt is no dictionary"),
    "a-word-twice": (write("dict.de.txt", b"a 1\na 1\n"), r"dict\.de\.txt is no dictionary.*'a'"),
    "short-dictionary": (half_the_words, r"en\.bin was prepared with another dictionary: .*dict\.en\.txt"),
    "empty-index": (write("train.de-en.de.idx", b""), r"train\.de-en\.de\.idx is damaged"),
    "cut-index": (cut("train.de-en.de.idx"), r"train\.de-en\.de\.idx is damaged"),
    "other-index": (write("train.de-en.de.idx", b"x" * 999), r"train\.de-en\.de\.idx is damaged"),
    "no-index": (remove("train.de-en.en.idx"), r"train\.de-en\.en\.idx is missing"),
    "cut-text": (cut("train.de-en.de.bin"), r"train\.de-en\.de\.bin does not fit its index"),
    "no-text": (remove("train.de-en.de.bin"), r"train\.de-en\.de\.bin is missing"),
    "no-target": (remove("train.de-en.en.*"), r"train\.de-en\.en\.idx is missing"),
    "no-set": (remove("train.*"), r"--train-subset train: .* no such set of de-en; there are test, valid"),
    "other-lengths": (swap, "16 sentences of de, 120 of en"),
    "second-part": (write("train1.de-en.de.idx", b""), r"train1\.de-en\.de\.bin is missing"),
}


def opened(folder, split="train", **changes):
    cfg = parse(folder, "--optimizer", "adam", arch="dsp_transformer", task="dsp_translation")
    with open_dict(cfg):
        cfg.task.update(changes)
        if split == "test":  # as fairseq-generate has it
            cfg.optimizer = None
    task = tasks.setup_task(cfg.task)
    task.load_dataset(split)
    return task


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_told_by_the_file(tiny_data, tmp_path, case):
    change, told = DAMAGE[case]
    folder = tmp_path / "bin"
    shutil.copytree(tiny_data, folder)
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        opened(tiny_data, data=str(folder))


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"source_lang": "xx"}, "--source-lang xx: .*de-en"),
        ({"source_lang": "en"}, "--source-lang en: .*de-en"),  # fairseq would take de without a word
        ({"target_lang": "de"}, "--target-lang de: .*de-en"),
        (
            {"source_lang": "xx", "target_lang": "en"},
            r"--source-lang xx: .*no dict\.xx\.txt; its languages are de-en",
        ),
        ({"data": ""}, "is not a folder"),
    ],
)
def test_languages_that_the_data_do_not_have(tiny_data, changes, told):
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        opened(tiny_data, **changes)


@pytest.mark.parametrize(
    "changes", [{}, {"source_lang": "de"}, {"target_lang": "en"}, {"source_lang": "en", "target_lang": "de"}]
)
def test_whole_data(tiny_data, changes):
    assert len(opened(tiny_data, **changes).dataset("train")) == 120


def test_a_set_without_references_is_translated(tiny_data, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "bin")
    remove("test.*.en.*")(tmp_path / "bin")
    assert len(opened(tiny_data, "test", data=str(tmp_path / "bin")).dataset("test")) == 12


def test_the_shortest_sentence_must_be_allowed_as_many_words_as_it_needs(tiny_data):
    task = opened(tiny_data, "test")
    shortest = int(task.dataset("test").src_sizes.min())
    search = Namespace(beam=1, max_len_a=1, max_len_b=2, min_len=shortest + 2)
    task.build_generator([torch.nn.Linear(1, 1)], Namespace(**{**vars(search), "score_reference": True}))
    search.min_len += 1
    with pytest.raises(
        ValueError, match=f"--min-len {shortest + 3}: .* the shortest sentence {shortest + 2} tokens"
    ):
        task.build_generator([], search)
