"""`dsp seal`: what earlier versions wrote, and what was edited on purpose, gets its checksum; nothing else
changes.
"""

from __future__ import annotations

import json
import logging

import pytest
import torch
from safetensors.torch import save_file

from dsp_plugin.cli.main import main
from dsp_plugin.gating import AttentionBlock, HeadMap
from dsp_plugin.records.files.sealed import read_json
from dsp_plugin.records.files.sealed_folder import LIST, check_sealed
from dsp_plugin.records.history import read_history
from dsp_plugin.records.record import Metric, find_records, load_record, new_record, save_record
from dsp_plugin.surgery import read_mask

HEADS = HeadMap([AttentionBlock("encoder.layers.0.self_attn", 2, "encoder-self")])
ENTRIES = [{"updates": count, "keep": [1, 0]} for count in (2, 4)]


def unsealed(path):
    """As an earlier version wrote it."""
    content = read_json(path)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return content


@pytest.fixture
def old(tmp_path):
    """A training folder of an earlier version, with things of other programs beside ours."""
    path = save_record(
        new_record("mt-bleu", "größe", "dsp", metrics=[Metric("BLEU", 12.5, subset="test")]), tmp_path / "run"
    )
    unsealed(path)
    run = tmp_path / "run"
    (run / "mask.json").write_text(json.dumps({**HEADS.to_dict(), "keep": [True, False]}, indent=1))
    (run / "settings.json").write_text('{"seed": 1}\n')
    (run / "heads.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in ENTRIES) + '{"upd')
    (run / "config.json").write_text('{"model_type": "bert"}')
    save_file({"gating.gates.scores": torch.ones(2)}, run / "model.safetensors", {"format": "pt"})
    (run / "pruned").mkdir()
    (run / "pruned" / "config.json").write_text('{"model_type": "bert", "kept_heads": {}}')
    save_file({"weight": torch.ones(2)}, run / "pruned" / "model.safetensors", {"format": "pt"})
    (run / "checkpoint-2").mkdir()
    (run / "checkpoint-2" / "trainer_state.json").write_text('{"global_step": 2}')
    (tmp_path / "stock").mkdir()
    (tmp_path / "stock" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "stock" / "tokenizer.json").write_text('{"keep": 1}')
    save_file({"weight": torch.ones(2)}, tmp_path / "stock" / "model.safetensors", {"format": "pt"})
    return tmp_path


def test_a_tree_of_an_earlier_version(old, caplog, capsys):
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    with caplog.at_level(logging.WARNING):
        ((_, record),) = find_records(old)
    assert f"`dsp seal {old}`" in caplog.text
    assert main(["seal", str(old)]) == 0
    assert "sealed: 4 files, 3 folders" in capsys.readouterr().out
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert find_records(old) == [(old / "run" / "results.json", record)]
        assert read_mask(str(old / "run" / "mask.json"), HEADS) == [True, False]
        assert (
            read_json(old / "run" / "settings.json") == {"seed": 1} and read_history(old / "run") == ENTRIES
        )
        assert all(check_sealed(old / "run" / name, warn=True) for name in ("", "pruned", "checkpoint-2"))
    assert not caplog.records
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {"results.json", "mask.json", "settings.json", "heads.jsonl"}
    assert not (old / "stock" / LIST).exists()
    again = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    assert main(["seal", str(old)]) == 0 and again == {
        path: path.read_bytes() for path in old.rglob("*") if path.is_file()
    }


def test_an_edit_by_hand_is_refused_until_it_is_sealed(old, capsys):
    path = old / "run" / "results.json"
    assert main(["seal", str(path)]) == 0
    path.write_text(path.read_text("utf-8").replace("12.5", "13.5"), "utf-8")
    with pytest.raises(
        ValueError, match=rf"does not fit its checksum .if it was changed on purpose: dsp seal {path}"
    ):
        load_record(path)
    assert main(["seal", str(path)]) == 0
    assert load_record(path).metrics[0].value == 13.5
    (old / "stock" / "config.json").write_text("[1]")
    assert (
        main(["seal", str(old / "stock" / "config.json")]) == 1 and main(["seal", str(old / "nowhere")]) == 1
    )
    told = capsys.readouterr().err
    assert "only a JSON object" in told and "nowhere" in told


def test_what_cannot_be_sealed_is_said(old, capsys):
    (old / "run" / "heads.jsonl").write_text('{"updates": 1\n{}\n')
    (old / "run" / "deep.json").write_text("[" * 10**6)
    assert main(["seal", str(old)]) == 0
    told = capsys.readouterr().out
    assert (
        "left out: " in told
        and "heads.jsonl is damaged: line 1" in told
        and "deep.json: its brackets" in told
    )
