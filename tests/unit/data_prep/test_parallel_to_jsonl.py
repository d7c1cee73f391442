"""`parallel_to_jsonl.py`: two aligned files become JSONL that run_clm.py reads, or nothing is written."""

from __future__ import annotations

import pytest
from data_prep_programs import failed, ok, run, write

PROGRAM = "parallel_to_jsonl.py"


@pytest.fixture
def raw(tmp_path):
    for name, german, english in (
        ("train", ["ein Haus ", "", "zwei „Häuser“\u2028hier"], ["a house", "nothing", "two 'houses' here"]),
        ("dev", ["drei"], ["three"]),
        ("dev1", ["-"], ["3"]),
    ):
        write(tmp_path / f"{name}.de", german)
        write(tmp_path / f"{name}.en", english)
    return tmp_path


def test_pairs_become_lines(raw):
    said = ok(run(PROGRAM, "--train", "train", "--dev", "dev", "--references", "dev1", "--out", "o", cwd=raw))
    assert "o/train.jsonl: 2 pairs, 1 left out for an empty side" in said
    assert (raw / "o/train.jsonl").read_text("utf-8") == (
        '{"source": "ein Haus", "target": "a house"}\n'
        '{"source": "zwei „Häuser“\u2028hier", "target": "two \'houses\' here"}\n'
    )
    assert (raw / "o/dev.jsonl").read_text("utf-8") == '{"source": "drei", "target": ["three", "3"]}\n'
    ok(run(PROGRAM, "--train", "train", "--langs", "en", "de", "--out", "o", cwd=raw))
    assert (
        (raw / "o/train.jsonl").read_text("utf-8").startswith('{"source": "a house", "target": "ein Haus"}')
    )


def test_what_is_written_is_what_the_program_reads(raw):
    pytest.importorskip("transformers")
    from dsp_plugin.hf.data.clm_files import Line, read_lines

    ok(run(PROGRAM, "--train", "train", "--dev", "dev", "--references", "dev1", "--out", "o", cwd=raw))
    assert read_lines(raw / "o/train.jsonl", " => ")[1] == Line(
        "zwei „Häuser“\u2028hier", ("two 'houses' here",)
    )
    assert read_lines(raw / "o/dev.jsonl", " => ") == [Line("drei", ("three", "3"))]


def test_training_pairs_of_a_scored_set_are_told_and_can_be_left_out(raw):
    write(raw / "dev.de", ["ein Haus", "ein Haus"])
    write(raw / "dev.en", ["a house", "one house"])
    words = ("--train", "train", "--dev", "dev", "--out", "o")
    said = ok(run(PROGRAM, *words, cwd=raw))
    assert "o/train.jsonl: 2 pairs, 1 left out for an empty side, 1 of them are in dev or test, too" in said
    said = ok(run(PROGRAM, *words, "--drop-shared", cwd=raw))
    assert "o/train.jsonl: 1 pairs" in said and "1 left out that are in dev or test" in said
    assert "Haus" not in (raw / "o/train.jsonl").read_text("utf-8")


@pytest.mark.parametrize(
    "words, said",
    [
        ("--train train --dev none", "none.de is missing"),
        ("--train train --dev dev --references train", "misaligned: train.en has 3 lines, dev has 1"),
        ("--train short", "misaligned corpus: short.de has 1 lines, short.en has 2"),
        ("--train train --out dev.de", "dev.de is a file: name a folder"),
    ],
)
def test_bad_input_leaves_nothing(raw, words, said):
    write(raw / "short.de", ["a"])
    write(raw / "short.en", ["a", "b"])
    assert said in failed(run(PROGRAM, "--out", "o", *words.split(), cwd=raw))
    assert not (raw / "o").exists()


@pytest.mark.parametrize("words", ["", "--train train --references dev1"])
def test_nothing_to_do_is_told(raw, words):
    done = run(PROGRAM, "--out", "o", *words.split(), cwd=raw)
    assert done.returncode == 2 and "--dev" in done.stderr
