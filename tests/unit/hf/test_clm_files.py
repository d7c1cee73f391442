"""Text for causal language models: what a line means, and which line of which file means nothing."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

from dsp_plugin.hf.data.clm_files import Line, read_lines, references_of
from dsp_plugin.hf.data.data_error import DataError

SEPARATOR = " => "


@pytest.mark.parametrize(
    "name, text, found",
    [
        ("a.jsonl", '{"source": " ein Haus ", "target": "a house"}\n', [Line("ein Haus", ("a house",))]),
        ("a.json", '{"source": "x", "target": ["y", "z "], "id": 3}', [Line("x", ("y", "z"))]),
        ("a.jsonl", '\ufeff{"source": "", "target": "y"}\r\n\n', [Line("", ("y",))]),
        (
            "a.txt",
            "ein Haus => a house\n\n x=>y => z\n",
            [Line("ein Haus", ("a house",)), Line("x", ("y => z",))],
        ),
        (
            "a.txt",
            "a text\u2028goes on\nanother\n",
            [Line("", ("a text\u2028goes on",)), Line("", ("another",))],
        ),
        ("a", "no ending", [Line("", ("no ending",))]),
    ],
)
def test_what_a_line_means(tmp_path, name, text, found):
    (tmp_path / name).write_bytes(text.encode())
    assert read_lines(tmp_path / name, SEPARATOR) == found


@pytest.mark.parametrize(
    "name, text, found",
    [
        ("a.jsonl", '{"source": "x"}\n{"source": "y", "target": null}', [Line("x", ()), Line("y", ())]),
        ("a.jsonl", '{"source": "x", "target": ["y"]}', [Line("x", ("y",))]),
        ("a.txt", "only a source\n", [Line("only a source", ())]),
        ("a.txt", "x => y\nz =>\n", [Line("x", ("y",)), Line("z", ())]),
    ],
)
def test_sources_may_stand_alone_where_texts_are_to_be_written(tmp_path, name, text, found):
    (tmp_path / name).write_text(text)
    assert read_lines(tmp_path / name, SEPARATOR, with_targets=False) == found


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("a.jsonl", b'{"source": "x", "target": "y"}\n{"source": "x"\n', "line 2: no JSON: "),
        ("a.jsonl", b"[" * 100_000, "line 1: no JSON: "),
        ("a.jsonl", b"[1]", "line 1: list where an object with source and target belongs"),
        ("a.jsonl", b'{"src": "x", "target": "y"}', "line 1: no 'source' (there is 'src', 'target')"),
        ("a.jsonl", b'\n\n{"source": "x", "tgt": "y"}', "line 3: no 'target' (there is 'source', 'tgt')"),
        ("a.jsonl", b'{"source": 3, "target": "y"}', "line 1: 'source' is int, a text belongs there"),
        ("a.jsonl", b'{"source": "x", "target": ["y", {}]}', "line 1: 'target' is dict"),
        ("a.jsonl", b'{"source": "x", "target": []}', "line 1: 'target' is empty"),
        ("a.jsonl", b'{"source": "x", "target": " "}', "line 1: a 'target' is empty"),
        ("a.jsonl", b'{"source": "x", "target": ["y", ""]}', "line 1: a 'target' is empty"),
        ("a.jsonl", b'{"source": "\\ud800", "target": "y"}', "line 1: 'source' is no text"),
        ("a.txt", b"x => y\nz\n", "line 2: there is no separator '=>', and in line 1 one: all lines"),
        ("a.txt", b"x\ny\nx => y\n", "line 3: there is a separator '=>', and in line 1 none"),
        ("a.txt", b"x => y\n => z\n", "line 2: there is no source before '=>'"),
        ("a.txt", b"x =>\n", "line 1: there is no target behind '=>'"),
        ("a.txt", b"x\ny\xff\n", "line 2: not UTF-8 (invalid start byte)"),
        ("a.txt", b"\n \n", " has no text"),
        ("b.txt", None, " cannot be read: No such file"),
    ],
)
def test_file_and_line_of_what_cannot_be_are_named(tmp_path, name, text, said):
    if text is not None:
        (tmp_path / name).write_bytes(text)
    with pytest.raises(DataError) as refusal:
        read_lines(tmp_path / name, SEPARATOR)
    assert str(refusal.value).startswith(str(tmp_path / name)) and said in str(refusal.value)


@pytest.mark.parametrize("separator, target", [("\t", "y"), (" || ", "y"), ("", None)])
def test_the_separator_is_the_users(tmp_path, separator, target):
    (tmp_path / "a.txt").write_text(f"x{separator}y\n")
    (line,) = read_lines(tmp_path / "a.txt", separator)
    assert line == (Line("x", ("y",)) if target else Line("", ("xy",)))


def test_lines_of_one_source_are_its_references():
    found = references_of([Line("b", ("1",)), Line("a", ("2", "3")), Line("b", ("4",))])
    assert list(found.items()) == [("b", ["1", "4"]), ("a", ["2", "3"])]
