"""What undo records hold is checked, too, where the checksum fits: any program can compute one."""

from __future__ import annotations

import json

import pytest
import torch
from diff_packs import SmallModel, random_pack, same, snapshot
from safetensors import safe_open
from safetensors.torch import save_file

from dsp_plugin.artefacts.checksum import seal
from dsp_plugin.diffs.packs.undo_file import UndoRecord


class TestUndoRecords:
    @pytest.fixture()
    def state(self) -> dict:
        return snapshot(SmallModel())

    def rewritten(self, path, about=None, tensors=None, without=()) -> None:
        """The record with other content and a checksum that fits."""
        with safe_open(path, "pt") as file:
            told = json.loads(file.metadata()["dsp_diff_undo"])
            content = {name: file.get_tensor(name) for name in file.keys()}
        told.update({"checksum": "0" * 64, **(about or {})})
        content = {
            name: tensor for name, tensor in {**content, **(tensors or {})}.items() if tensor is not None
        }
        save_file(
            content,
            path,
            {"dsp_diff_undo": json.dumps({key: value for key, value in told.items() if key not in without})},
        )
        if "checksum" not in without:
            seal(path)

    @pytest.mark.parametrize(
        "how, reason",
        [
            (dict(without=["checksum"]), "no checksum"),
            (dict(about={"format_version": 9}), "newer"),
            (dict(about={"head_added": [3]}), "no name"),
            (dict(about={"head_added": ["body.0.weight"]}), "in the task head and among the changed"),
            (dict(about={"base_hash": 3}), "SHA-256"),
            (dict(about={"parameters": [["a", "float32"]]}), "dtype, shape"),
            (dict(about={"config": "[]"}), "no JSON object"),
            (dict(about={"config": "{"}), "Expecting"),
            (dict(without=["config"]), "'config' is missing"),
            (dict(tensors={"more": torch.zeros(1)}), "no name"),
            (dict(tensors={"old.body.0.weight": None}), "tensor 'positions.body.0.weight'"),
            (dict(tensors={"old.body.0.bias": torch.zeros(3, dtype=torch.int64)}), "body.0.bias"),
            (
                dict(
                    tensors={"positions.body.0.bias": torch.tensor([5, 3]), "old.body.0.bias": torch.zeros(2)}
                ),
                "rise strictly",
            ),
            (
                dict(
                    tensors={"positions.body.0.bias": torch.tensor([-1]), "old.body.0.bias": torch.zeros(1)}
                ),
                "leave a tensor",
            ),
        ],
    )
    def test_records_that_make_no_sense(self, state, tmp_path, how, reason):
        pack, path = random_pack(SmallModel(), 6), tmp_path / "undo"
        UndoRecord.of(pack.apply(state), pack.base, "{}").save(path)
        self.rewritten(path)
        UndoRecord.load(path)
        self.rewritten(path, **how)
        with pytest.raises(ValueError, match=f"undo is not an undo record, or is damaged: .*{reason}"):
            UndoRecord.load(path)

    def test_a_record_that_does_not_lead_to_its_base_changes_nothing(self, state, tmp_path):
        pack, path = random_pack(SmallModel(), 6), tmp_path / "undo"
        undo = pack.apply(state)
        UndoRecord.of(undo, pack.base).save(path)
        self.rewritten(path, tensors={"old.body.0.weight": undo.changes["body.0.weight"].old + 1})
        after = {name: tensor.clone() for name, tensor in state.items()}
        with pytest.raises(ValueError, match="cannot revert"):
            UndoRecord.load(path).restore(state)
        assert same(state, after)
