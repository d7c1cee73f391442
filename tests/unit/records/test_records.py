"""Records: written whole, read back the same, damage named; nothing of the machine in them."""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dsp_plugin.records.files.whole as files
from dsp_plugin.records.environment import command_line, device_name, portable_path, versions
from dsp_plugin.records.files.sealed import seal_text
from dsp_plugin.records.kept_heads import has_lost
from dsp_plugin.records.record import (
    Metric,
    Record,
    RecordError,
    fingerprint,
    kept_heads,
    load_record,
    load_records,
    mask_of,
    new_record,
    save_record,
)

ROOT = Path(__file__).resolve().parents[3]
HEAD_MAP = {
    "blocks": [
        {"name": "encoder.layers.0.self_attn", "num_heads": 4, "kind": "encoder-self"},
        {"name": "decoder.layers.0.encoder_attn", "num_heads": 0, "kind": "decoder-cross"},
        {"name": "decoder.layers.0.self_attn", "num_heads": 2, "kind": "decoder-self"},
    ]
}


def a_record(**fields) -> Record:
    defaults = dict(
        kind="mt-bleu",
        name="tiny",
        method="dsp-joint",
        seed=3,
        metrics=[Metric("BLEU", 31.5, signature="nrefs:1|case:lc", subset="test")],
        heads=kept_heads(HEAD_MAP, [True, False, False, True, False, True]),
        parameters={"before": 100, "after": 80},
        seconds={"train": 1.5},
        updates=20,
        extra={"note": "zwei Köpfe [\n 1, 2]"},
    )
    return Record(**{**defaults, **fields})


def test_round_trip(tmp_path):
    record = a_record()
    path = save_record(record, tmp_path / "run")
    assert path == tmp_path / "run" / "results.json"
    assert load_record(path) == record
    assert os.listdir(tmp_path / "run") == ["results.json"]


def test_numbers_of_numpy_and_torch_become_plain(tmp_path):
    record = a_record(updates=np.int64(7), extra={"score": torch.tensor(0.5), "k": np.float32(2)})
    record.metrics[0].value = np.float32(31.5)
    fields = json.loads(save_record(record, tmp_path).read_text("utf-8"))
    assert (fields["updates"], fields["extra"], fields["metrics"][0]["value"]) == (
        7,
        {"score": 0.5, "k": 2.0},
        31.5,
    )


def test_kept_heads_and_back():
    mask = torch.tensor([True, False, False, True, False, True])
    heads = kept_heads(HEAD_MAP, mask)
    assert (heads["total"], heads["kept"]) == (6, 3)
    assert [block["kept"] for block in heads["blocks"]] == [[0, 3], [], [1]]
    assert mask_of(heads) == mask.tolist()
    with pytest.raises(ValueError, match="5 entries, the model 6 heads"):
        kept_heads(HEAD_MAP, mask[:5])


def test_heads_and_groups_of_neurons_are_counted_apart(tmp_path):
    ffn = {"name": "encoder.layers.0.ffn", "num_heads": 3, "kind": "encoder-ffn", "neurons": 32}
    mask = [True, False, False, True, False, True, False, True, False]
    heads = kept_heads({"blocks": [*HEAD_MAP["blocks"], ffn]}, mask)
    assert (heads["total"], heads["kept"]) == (6, 3) and heads["groups"] == {"total": 3, "kept": 1}
    assert heads["blocks"][-1] == {**ffn, "kept": [1]} and mask_of(heads) == mask and has_lost(heads)
    record = a_record(heads=heads)
    assert load_record(save_record(record, tmp_path)) == record
    assert not has_lost(kept_heads({"blocks": heads["blocks"]}, [True] * 9))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"groups": {"total": 3, "kept": 2}}, "heads.groups.kept is 2, the blocks keep 1"),
        ({"groups": {"total": 9, "kept": 1}}, "heads.groups.total is 9, the blocks have 3"),
        ({"groups": 3}, r"heads.groups must be \{total, kept\}"),
        ({"kept": 4}, "heads.kept is 4, the blocks keep 3"),
    ],
)
def test_counts_that_do_not_add_up_are_refused(change, said):
    ffn = {"name": "encoder.layers.0.ffn", "num_heads": 3, "kind": "encoder-ffn", "neurons": 32}
    mask = [True, False, False, True, False, True, False, True, False]
    heads = kept_heads({"blocks": [*HEAD_MAP["blocks"], ffn]}, mask)
    with pytest.raises(RecordError, match=said):
        a_record(heads={**heads, **change}).validate()


def test_a_record_of_an_earlier_version_counts_all_units_as_heads():
    ffn = {"name": "encoder.layers.0.ffn", "num_heads": 3, "kind": "encoder-ffn", "neurons": 32, "kept": [1]}
    blocks = [*a_record().heads["blocks"], ffn]
    a_record(heads={"total": 9, "kept": 4, "blocks": blocks}).validate()


def test_new_record_fills_in_the_surroundings(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/else/bin/dsp", "prune", "--out", "x y"])
    record = new_record("prune", "tiny", "dsp-joint", device="cpu", seed=1)
    record.validate()
    assert record.command == "dsp prune --out 'x y'"
    assert record.versions["torch"].startswith(torch.__version__.split("+")[0])
    assert {"python", "dsp_plugin"} <= set(record.versions) == set(versions())
    assert record.device == device_name("cpu")


@pytest.mark.parametrize(
    "argument, expected",
    [
        ("data-bin/", "data-bin/"),
        ("{here}/data-bin", "data-bin"),
        ("{here}", "."),
        ("/elsewhere/deep/model.pt", "model.pt"),
        ("--path=/elsewhere/deep/model.pt", "--path=model.pt"),
        ("/elsewhere/my data/bin", "bin"),
        ("/elsewhere/a:{here}/b", "a:b"),
        ('{{"bpe": "/elsewhere/codes", "beam": 5}}', '{{"bpe": "codes", "beam": 5}}'),
        ("tcp://localhost:1234", "tcp://localhost:1234"),
        ("file:///elsewhere/sync", "file://sync"),
        ("common.user_dir=/elsewhere/dsp_plugin", "common.user_dir=dsp_plugin"),
        ("</s>", "</s>"),
        ("1/2", "1/2"),
    ],
)
def test_no_machine_path_in_the_command(tmp_path, monkeypatch, argument, expected):
    monkeypatch.chdir(tmp_path)
    argv = ["run.py", argument.format(here=os.getcwd())]
    assert shlex.split(command_line(argv)) == ["python", "run.py", expected.format()]


@pytest.mark.parametrize("folder", [".", "scripts", "scripts/glue", None])
@pytest.mark.parametrize("spelling", ["relative", "absolute"])
def test_a_command_can_be_run_again_from_the_root_wherever_it_was_started(
    tmp_path, monkeypatch, folder, spelling
):
    """Its program answers, and its paths in the repository are there."""
    monkeypatch.chdir(tmp_path if folder is None else ROOT / folder)
    spelt = os.path.abspath if spelling == "absolute" else os.path.relpath
    argv = [
        spelt(ROOT / "scripts" / "glue" / "run_glue.py"),
        f"--data={spelt(ROOT / 'docs')}",
        "--only",
        "a 'b' $c",
        spelt(ROOT / "README.md"),
        "CoLA",
    ]
    words = shlex.split(command_line(argv))
    assert words == [
        "python",
        "scripts/glue/run_glue.py",
        "--data=docs",
        "--only",
        "a 'b' $c",
        "README.md",
        "CoLA",
    ]
    if folder is None and spelling == "relative":
        found = subprocess.run(
            f"{sys.executable} {shlex.join(words[1:2])} --help", shell=True, cwd=ROOT, capture_output=True
        )
        assert found.returncode == 0


def test_a_command_of_strange_bytes_is_text():
    assert command_line(["dsp", "inspect", "a\udcff\nb"]) == "dsp inspect 'a\\udcff\nb'"
    assert command_line([]) == "''"


def test_portable_path_through_a_link(tmp_path, monkeypatch):
    (tmp_path / "real" / "data").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path / "real")
    assert portable_path(tmp_path / "link" / "data") == "data"


def test_fingerprint_depends_on_names_and_contents_only(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / "train.de").write_text("ein Mann\n")
        (tmp_path / folder / "sub" / "train.en").write_text("a man\n")
    (tmp_path / "b" / "preprocess.log").write_text("paths and times")
    first = fingerprint([tmp_path / "a"])
    assert len(first) == 16 and first == fingerprint([tmp_path / "b"]) == fingerprint(tmp_path / "a")
    de, en = tmp_path / "a" / "train.de", tmp_path / "a" / "sub" / "train.en"
    assert fingerprint([de, en]) == fingerprint([en, de]) != first
    en.write_text("a woman\n")
    assert fingerprint([tmp_path / "a"]) != first
    en.write_text("a man\n")
    en.rename(tmp_path / "a" / "sub" / "valid.en")
    assert fingerprint([tmp_path / "a"]) != first
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fingerprint([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="no file"):
        fingerprint([])


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_failing_while_saving_leaves_the_old_record_whole(tmp_path, monkeypatch, failing):
    path = save_record(a_record(), tmp_path)
    before = path.read_bytes()

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, failing, no_space)
    with pytest.raises(OSError, match="No space left"):
        save_record(a_record(updates=99), tmp_path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["results.json"]  # nothing half-written lies about


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(method=""), "method must be a text"),
        (dict(seed="3"), "seed"),
        (dict(updates=-1), "updates"),
        (dict(parameters={"before": 3}), "parameters"),
        (dict(seconds={"train": float("nan")}), "seconds"),
        (dict(metrics=[Metric("BLEU", float("nan"), subset="test")]), r"metrics\[0\].value \(BLEU\)"),
        (dict(metrics=[Metric("BLEU", 1.0), Metric("BLEU", 2.0)]), "twice: BLEU"),
        (dict(extra={"what": object()}), "not JSON"),
        (dict(extra={"what": float("inf")}), "not JSON"),
        (dict(heads={"total": 2, "kept": 1, "blocks": []}), "heads.total is 2, the blocks have 0"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_written(tmp_path, change, message):
    with pytest.raises(RecordError, match=message):
        save_record(a_record(**change), tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda text: text[: len(text) // 2], "damaged"),
        (lambda text: "", "damaged"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 2'), "schema 2, this version"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": "1"'), "schema_version is '1'"),
        (lambda text: text.replace('"method"', '"methud"'), "unknown fields: methud"),
        (lambda text: text.replace('  "method": "dsp-joint",\n', ""), "lacks method"),
        (lambda text: text.replace('"value": 31.5', '"value": "31.5"'), "value"),
        (lambda text: text.replace('"kept": 3', '"kept": 4'), "heads.kept is 4, the blocks keep 3"),
        (lambda text: text.replace("[0, 3]", "[0, 4]"), "kept must list different heads"),
        (lambda text: "[1, 2]", "not a result record"),
    ],
)
def test_a_damaged_record_is_reported_by_name_and_left_out(tmp_path, caplog, damage, message):
    good = a_record(name="good")
    save_record(good, tmp_path / "b")
    path = save_record(a_record(), tmp_path / "a")
    text = path.read_text("utf-8")
    damaged = damage(text)
    assert damaged != text
    # with its checksum, which is looked at first
    path.write_text(seal_text(damaged) if damaged.endswith("}\n") else damaged, "utf-8")
    with pytest.raises(RecordError, match=message) as caught:
        load_record(path)
    assert str(path) in str(caught.value)
    with caplog.at_level(logging.WARNING):
        assert load_records(tmp_path) == [good]
    assert [str(path) in line.getMessage() for line in caplog.records] == [True]


def test_other_json_is_no_record_and_no_alarm(tmp_path, caplog):
    save_record(a_record(), tmp_path / "some-run.json")
    (tmp_path / "mask.json").write_text("[true]")
    with caplog.at_level(logging.INFO):
        assert len(load_records(tmp_path)) == 1
    assert [line.levelname for line in caplog.records] == ["INFO"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_records(tmp_path / "nowhere")
