"""`dsp delta inspect` on files."""

from __future__ import annotations

import json

import torch

from dsp_plugin.artefacts.base import Base
from dsp_plugin.cli.main import main
from dsp_plugin.delta.artefact import DeltaFile
from dsp_plugin.delta.parts import Part

PARTS = {
    "prompt": Part(1, {"prompt_num": 2}, {"vectors": torch.ones(2, 4)}),
    "bias": Part(2, {}, {"a.bias": torch.ones(3)}),
    "diff": Part(
        2,
        {},
        {"a.weight.positions": torch.tensor([1, 5], dtype=torch.int32), "a.weight.values": torch.ones(2)},
    ),
}


def some_file(path):
    base = Base.of({"a.weight": torch.ones(3, 4), "a.bias": torch.zeros(3)})
    config = {"off": ["bias"], "base_model": "mini"}
    head = {"classifier.weight": torch.ones(2, 4)}
    DeltaFile(base, PARTS, head, "*cls*prompt*sent_0*mask*", {"0": "bad"}, config).save(path)


def test_inspect_counts(tmp_path, capsys):
    path = tmp_path / "task.delta.safetensors"
    some_file(path)
    assert main(["delta", "inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert f"{path.stat().st_size:,} bytes" in text
    assert "trained: 21 numbers, 140.000% of the base's 15 weights" in text
    assert "prompt: 8 numbers, 32 bytes, stage 1 (prompt_num 2)" in text
    assert "bias: 3 numbers, 12 bytes, stage 2, off\n" in text
    assert "diff: 2 numbers, 16 bytes, stage 2\n" in text
    assert "template: *cls*prompt*sent_0*mask*" in text and "mapping: 0 bad" in text
    assert "base_model: mini" in text
    assert main(["delta", "inspect", str(path), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["trained"] == 21 and figures["file_bytes"] == path.stat().st_size
    parts = [figures["task_head_bytes"], figures["other_bytes"]]
    parts += [one["bytes"] for one in figures["methods"].values()]
    assert sum(parts) == figures["file_bytes"]


def test_a_damaged_file_is_one_line(tmp_path, capsys):
    path = tmp_path / "task.delta.safetensors"
    some_file(path)
    path.write_bytes(path.read_bytes()[:-3])
    assert main(["delta", "inspect", str(path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("dsp delta: error: ") and "truncated" in said and said.count("\n") == 1
