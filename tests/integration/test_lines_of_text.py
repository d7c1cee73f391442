"""What a line is, is the same to every program that prepares text: this project's own, subword-nmt and
fairseq.
"""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("fairseq")
pytest.importorskip("sacremoses")

from data_prep_programs import PREP, failed, lines, ok, run, write

sys.path.insert(0, str(PREP))

import binarise
import embedded_corpus
from pairs import CorpusError, read_pair, read_side

# lone carriage return, the line ends of str.splitlines, and what is no text
CONTROLS = ["\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


def corpus(folder, train: int = 22) -> None:
    """Tokenised splits."""
    pairs = embedded_corpus.corpus({"train": train, "valid": 6, "test": 5}, seed=3)
    for split, content in pairs.items():
        for side, lang in enumerate(("de", "en")):
            write(folder / f"{split}.{lang}", [pair[side] for pair in content])


def spoil(path, number: int, character: str) -> None:
    """Puts a character after the first word of a line."""
    content = path.read_bytes().decode().split("\n")
    content[number - 1] = content[number - 1].replace(" ", f" {character} ", 1)
    path.write_bytes("\n".join(content).encode())


def binarised(folder):
    return run("binarise.py", "--text", "text", "--dest", "bin", "--workers", 1, cwd=folder)


@pytest.mark.parametrize("character", [*CONTROLS, "\x00", "\r\r"])
def test_what_fairseq_reads_otherwise_is_refused_by_file_and_line(tmp_path, character):
    corpus(tmp_path / "text")
    # on both sides: the number of lines stays the same on both
    spoil(tmp_path / "text/train.de", 7, character)
    spoil(tmp_path / "text/train.en", 9, character)
    with pytest.raises(CorpusError) as refused:
        binarise.binarise(tmp_path / "text", tmp_path / "bin", ["test"], joined_dictionary=False)
    said = str(refused.value)
    assert "text/train.de, line 7: " in said and list(tmp_path.iterdir()) == [tmp_path / "text"]
    name = {"\r": "carriage return", "\x00": "NUL", "\r\r": "carriage return"}.get(
        character, f"U+{ord(character[0]):04X}"
    )
    assert name in said


def test_a_byte_order_mark_is_a_word_to_fairseq(tmp_path):
    corpus(tmp_path / "text")
    path = tmp_path / "text/valid.en"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert "text/valid.en, line 1: a byte-order mark" in failed(binarised(tmp_path))
    assert read_side(path)[0] == lines(path)[0].lstrip("\ufeff")  # of raw text it is none


def test_ends_of_lines_that_all_read_alike(tmp_path):
    """Carriage return with line feed, and a last line without its end."""
    corpus(tmp_path / "text")
    for lang in ("de", "en"):
        path = tmp_path / f"text/train.{lang}"
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n")[:-2])
    assert "train 22," in ok(binarised(tmp_path))


def test_what_was_written_is_compared_with_the_text(tmp_path):
    corpus(tmp_path / "text")
    ok(binarised(tmp_path))
    text, written = tmp_path / "text/train.de", tmp_path / "bin/train.de-en.de"
    binarise.check_written(text, written)
    content = lines(text)
    for changed, first in (
        (content[:-1], 22),
        ([*content, "more"], 23),
        ([content[0] + " more", *content[1:]], 1),
    ):
        write(text, changed)
        with pytest.raises(
            CorpusError, match=f"train.de has {len(changed)} lines .* 22 sentences, .* from line {first} on"
        ):
            binarise.check_written(text, written)


@pytest.mark.parametrize("tokenised", [False, True])
def test_our_tokens_are_the_same_lines_to_all(tmp_path, tokenised):
    """Within a line of the raw text such a character is a space."""
    corpus(tmp_path / "raw")
    expected = read_pair(tmp_path / "raw/train")
    for number, character in enumerate(CONTROLS[1:], start=1):
        spoil(tmp_path / "raw/train.de", number, character)
        spoil(tmp_path / "raw/train.en", number + 1, character)
    said = ok(
        run(
            "tokenize_pairs.py",
            "raw/train",
            "out/train",
            *(["--tokenised"] if tokenised else []),
            cwd=tmp_path,
        )
    )
    assert ("in 9 pairs, taken for a space" in said) == tokenised
    pairs = read_pair(tmp_path / "out/train", for_fairseq=True)
    assert [len(side.split()) for pair in pairs for side in pair] == [
        len(side.split()) for pair in expected for side in pair
    ]
    assert "out/train: done before" in ok(run("tokenize_pairs.py", "raw/train", "out/train", cwd=tmp_path))


def test_a_carriage_return_within_raw_text_is_refused(tmp_path):
    corpus(tmp_path / "raw")
    spoil(tmp_path / "raw/train.en", 9, "\r")
    assert "raw/train.en, line 9: a carriage return" in failed(run("pairs.py", "raw/train", cwd=tmp_path))
