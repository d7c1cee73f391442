"""Sentences for a masked language model: of training sides alone, and none that is scored anywhere."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from dsp_plugin.hf.data.data_error import DataError
from dsp_plugin.hf.data.mlm_text import read_sentences
from dsp_plugin.options.errors import OptionError


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "glue" / "SST-2").mkdir(parents=True)
    rows = ["a fine old film it is\t1", "too short\t0", "It 's a film , sadly .\t0", "it was a dull play\t0"]
    (tmp_path / "glue" / "SST-2" / "train.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    (tmp_path / "glue" / "SST-2" / "dev.tsv").write_text("sentence\tlabel\nIt's a film, sadly.\t0\n")
    (tmp_path / "glue" / "SST-2" / "test.tsv").write_text("index\tsentence\n0\tIT WAS A DULL PLAY\n")
    (tmp_path / "train.en").write_text(
        "A dog runs over the grass.\nTwo men sit on a bench.\nTwo men sit on a bench\n"
        "A cat sleeps on a sofa.\n"
    )
    (tmp_path / "val.en").write_text("a CAT sleeps on a sofa\n")
    return tmp_path


def test_what_is_scored_is_never_learnt(folder):
    found = read_sentences(folder / "glue", [folder / "train.en"], [folder / "val.en"], held_out=1)
    every = {"A dog runs over the grass.", "Two men sit on a bench.", "a fine old film it is"}
    assert {*found.train, *found.held_out} == every and len(found.held_out) == 1
    assert (found.scored, found.short, found.repeated) == (3, 1, 1)
    assert [path.name for path in found.files] == ["train.en", "train.tsv"]
    # the same ones are held out in any order
    lines = (folder / "train.en").read_text().splitlines()
    random.Random(1).shuffle(lines)
    (folder / "train.en").write_text("\n".join(lines) + "\n")
    again = read_sentences(folder / "glue", [folder / "train.en"], [folder / "val.en"], held_out=1)
    assert len(again.held_out) == 1 and {*again.train, *again.held_out} <= every | {"Two men sit on a bench"}
    assert again.held_out[0].rstrip(".") == found.held_out[0].rstrip(".")


def test_what_cannot_be_read(folder, tmp_path):
    with pytest.raises(OptionError, match="held_out 3: there are 3 sentences"):
        read_sentences(folder / "glue", [folder / "train.en"], [folder / "val.en"], held_out=3)
    with pytest.raises(OptionError, match="glue_dir .*is not a folder"):
        read_sentences(folder / "none", [])
    with pytest.raises(OptionError, match="glue_dir .*has no task"):
        read_sentences(folder, [])
    with pytest.raises(DataError, match="none.txt cannot be read"):
        read_sentences(None, [folder / "none.txt"])


@pytest.mark.skipif("DSP_DATA_DIR" not in os.environ, reason="needs real text")
def test_the_real_folders_share_nothing_with_what_is_scored():
    root = Path(os.environ["DSP_DATA_DIR"])
    others = sorted(path for path in (root / "multi30k").glob("*.en") if path.name != "train.en")
    found = read_sentences(root / "glue", [root / "multi30k" / "train.en"], others)
    scored = set()
    for path in [*others, *(root / "glue").glob("*/dev.tsv"), *(root / "glue").glob("*/test.tsv")]:
        for line in path.read_text("utf-8-sig").split("\n"):
            scored |= {cell.strip().lower() for cell in line.split("\t")}
    texts = {text.strip().lower() for text in (*found.train, *found.held_out)}
    assert len(texts) > 80_000 and len(found.held_out) == 1000
    assert len({path.parent.name for path in found.files}) == 5 and not texts & scored
