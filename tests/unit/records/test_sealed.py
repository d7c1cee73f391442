"""Checksums: what is read is what was written, or is refused by name; files of before are read with one
warning.
"""

from __future__ import annotations

import json
import logging
import random

import pytest

from dsp_plugin.records.files.sealed import (
    DamagedError,
    read_bounded,
    read_json,
    read_lines,
    seal_text,
    write_json,
    write_lines,
)
from dsp_plugin.records.files.sealed_folder import LIST, check_sealed, seal_folder, unseal_folder

CONTENT = {"name": "größer", "numbers": [1, 2.5, -0.0, 1e-300], "empty": {}, "flag": True, "none": None}
ENTRIES = [{"updates": count, "keep": [count % 2, 1]} for count in (2, 4, 6)]


@pytest.mark.parametrize(
    "layout", [{}, {"indent": 1}, {"indent": 2, "ensure_ascii": False}, {"separators": (",", ":")}]
)
def test_the_checksum_is_the_first_entry_and_the_layout_stays(tmp_path, layout):
    text = json.dumps(CONTENT, **layout) + "\n"
    write_json(tmp_path / "a.json", text)
    written = (tmp_path / "a.json").read_text("utf-8")
    assert list(json.loads(written)) == ["checksum", *CONTENT] and read_json(tmp_path / "a.json") == CONTENT
    kept = [line for line in written.splitlines() if "checksum" not in line]
    assert len(kept) == len(text.splitlines()) or "\n" not in text.strip()
    assert all(line in text.splitlines() for line in kept)
    assert seal_text(written) == written == seal_text(written.replace("sha256:", "sha256:0"))


def test_another_layout_and_order_is_the_same_content(tmp_path):
    content = json.loads(seal_text(json.dumps(CONTENT)))
    (tmp_path / "a.json").write_text(json.dumps(dict(reversed(content.items())), indent=7))
    assert read_json(tmp_path / "a.json") == CONTENT


def test_an_empty_object_can_be_sealed(tmp_path):
    write_json(tmp_path / "a.json", "{}")
    assert read_json(tmp_path / "a.json") == {}


@pytest.mark.parametrize(
    "old, new",
    [
        ('"flag": true', '"flag": false'),
        ("2.5", "2.6"),
        ("1e-300", "1e-301"),
        ("-0.0", "0.0"),
        ("sha256:", "sha257:"),
        ('"checksum"', '"chucksum"'),
    ],
)
def test_a_change_is_refused_and_the_message_says_how_to_seal_it(tmp_path, old, new):
    write_json(tmp_path / "a.json", json.dumps(CONTENT))
    text = (tmp_path / "a.json").read_text()
    assert text.count(old) == 1
    (tmp_path / "a.json").write_text(text.replace(old, new))
    with pytest.raises(
        DamagedError, match=r"a.json is damaged: its content does not fit its checksum .*: dsp seal .*a.json"
    ):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    "content, told",
    [
        (b"[" * 1_000_000, "nested too deeply"),
        (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "nested too deeply"),
        (b"", "not readable as JSON"),
        (b'{"a": \xff}', "not UTF-8"),
        (b'{"a": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
    ],
)
def test_what_is_no_json_is_refused_in_words(tmp_path, content, told):
    (tmp_path / "a.json").write_bytes(content)
    for read in (read_json, read_lines):
        with pytest.raises(DamagedError, match=rf"a.json is damaged: .*({told}|it is empty)"):
            read(tmp_path / "a.json")


def test_a_text_of_a_gigabyte_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(2**30)  # a hole: no byte is written
    for read in (read_json, read_lines):
        with pytest.raises(DamagedError, match="1,073,741,824 bytes"):
            read(tmp_path / "a.json")


def test_a_file_of_before_is_read_with_one_warning(tmp_path, caplog):
    (tmp_path / "a.json").write_text(json.dumps(CONTENT))
    (tmp_path / "h.jsonl").write_text(
        "".join(json.dumps(entry) + "\n" for entry in ENTRIES) + '{"updates": 8, "ke'
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert read_json(tmp_path / "a.json") == CONTENT
            assert read_lines(tmp_path / "h.jsonl") == ENTRIES  # its last line was cut off by a kill
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2 and all(
        f"`dsp seal {tmp_path / name}`" in line for name, line in zip(("a.json", "h.jsonl"), told)
    )


def test_the_lines_of_a_history_hold_together(tmp_path):
    path = tmp_path / "h.jsonl"
    write_lines(path, ENTRIES)
    assert read_lines(path) == ENTRIES
    lines = path.read_text().splitlines(keepends=True)
    assert [json.loads(line)["updates"] for line in lines] == [2, 4, 6]
    for others in (
        lines[:2],
        lines[1:],
        [lines[0], lines[2], lines[1]],
        [*lines, lines[2]],
        [lines[0], lines[2]],
    ):
        path.write_text("".join(others))
        with pytest.raises(
            DamagedError, match="h.jsonl is damaged: its content does not fit its checksum.*delete"
        ):
            read_lines(path)


@pytest.fixture
def folder(tmp_path):
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md", "heads.jsonl"):
        (tmp_path / name).write_text(f"content of {name}")
    seal_folder(tmp_path)
    return tmp_path


def test_a_folder_knows_its_model_and_not_its_card(folder):
    assert check_sealed(folder) and list(read_json(folder / LIST)["files"]) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    (folder / "README.md").write_text("another")
    (folder / "notes.txt").write_text("new")
    assert check_sealed(folder)


@pytest.mark.parametrize(
    "damage, told",
    [
        (
            lambda f: (f / "config.json").write_text("content of config.jsom"),
            "config.json is damaged: its content does not fit",
        ),
        (
            lambda f: (f / "model.safetensors").write_text("content"),
            "model.safetensors is damaged: its content does not fit",
        ),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "index.json is of another model"),
        (lambda f: (f / "pytorch_model.bin").write_text(""), "pytorch_model.bin is of another model"),
        (
            lambda f: (f / LIST).write_text((f / LIST).read_text().replace("config.json", "canfig.json")),
            f"{LIST} is damaged",
        ),
        (lambda f: write_json(f / LIST, '{"files": {"../x": {}}}'), "no name of a file in this folder"),
        (lambda f: write_json(f / LIST, '{"files": 3}'), "lists no files"),
        (lambda f: (f / LIST).write_text("[3]"), "lists no files"),
    ],
)
def test_a_folder_that_is_not_what_was_written_is_refused(folder, damage, told):
    damage(folder)
    with pytest.raises((DamagedError, FileNotFoundError), match=told):
        check_sealed(folder)


def test_a_folder_without_a_list_is_told_of_where_it_is_ours(folder, caplog):
    assert unseal_folder(folder) and not unseal_folder(folder)
    with caplog.at_level(logging.WARNING):
        assert not check_sealed(folder) and not caplog.records
        assert not check_sealed(folder, warn=True)
    assert f"`dsp seal {folder}`" in caplog.text


def test_no_flipped_bit_and_no_cut_reads_as_something_else(tmp_path):
    rng = random.Random(7)
    write_json(tmp_path / "a.json", json.dumps(CONTENT, indent=1))
    write_lines(tmp_path / "h.jsonl", ENTRIES)
    for path, read, value in (
        (tmp_path / "a.json", read_json, CONTENT),
        (tmp_path / "h.jsonl", read_lines, ENTRIES),
    ):
        whole = path.read_bytes()
        flips = [(place, 1 << bit) for place in range(len(whole)) for bit in range(8)]
        variants = [whole[:p] + bytes([whole[p] ^ bit]) + whole[p + 1 :] for p, bit in rng.sample(flips, 400)]
        for variant in [*variants, *(whole[:end] for end in range(len(whole)))]:
            path.write_bytes(variant)
            try:
                assert read(path) == value, variant
            except DamagedError:
                pass


def test_what_has_no_end_is_not_read_to_it():
    with pytest.raises(ValueError, match="goes on after 1,000 bytes"):
        read_bounded("/dev/zero", 1000)


@pytest.mark.parametrize("value", ["sha256:", "sha2%6:", "sha256:g", "Sha256;"])
def test_a_checksum_whose_name_and_value_are_damaged_is_still_one(tmp_path, value):
    path = tmp_path / "file.json"
    write_json(path, json.dumps(CONTENT))
    text = path.read_text("utf-8")
    assert text.count('"checksum": "sha256:') == 1
    path.write_text(text.replace('"checksum": "sha256:', f'"chebksum": "{value}'), "utf-8")
    with pytest.raises(DamagedError, match="does not fit its checksum"):
        read_json(path)
