"""Models that lost groups of neurons, in forms that load without this package; and what is told of them."""

from __future__ import annotations

import copy
import json

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import batch_of, logits, tiny_model  # isort: skip

from dsp_plugin.gating import FixedGates
from dsp_plugin.hf import export_dense, export_onnx, gate_heads, head_map_of, prune_heads, save_pruned
from dsp_plugin.hf.export.exports import export_folder
from dsp_plugin.hf.folders.model_heads import heads_of, parameters_of
from dsp_plugin.records.record import mask_of as flags_of

GROUP = 4


def mask_of(heads) -> torch.Tensor:
    """About half; the first feed-forward block has nothing left."""
    keep = torch.rand(heads.num_heads, generator=torch.Generator().manual_seed(7)) < 0.5
    block = next(block for block in heads.blocks if block.neurons)
    start, stop = heads.range(block.name)
    keep[start:stop] = False
    return keep


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_onnx(family, tmp_path):
    onnx, _, runtime = (pytest.importorskip(name) for name in ("onnx", "onnxscript", "onnxruntime"))
    masked = tiny_model(family, dtype=torch.float32)
    gate_heads(masked, FixedGates(mask_of(head_map_of(masked, GROUP))), neurons=GROUP)
    certificate = export_onnx(masked, tmp_path / "onnx")
    assert certificate.equal and 0 < certificate.largest_difference < 1e-4 < certificate.largest_output
    pruned = copy.deepcopy(masked)
    prune_heads(pruned)
    names = {name for name, weight in pruned.named_parameters() if weight.numel() == 0}
    assert names  # of the block without neurons
    weights = onnx.load(tmp_path / "onnx" / "model.onnx").graph.initializer
    held = sum(torch.Size(w.dims).numel() for w in weights if w.data_type == onnx.TensorProto.FLOAT)
    tied = pruned.get_input_embeddings().weight.numel() if family == "gpt2" else 0
    assert held <= sum(weight.numel() for weight in pruned.parameters()) + tied
    session = runtime.InferenceSession(
        str(tmp_path / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    if family == "bert":
        batch = batch_of(masked)
        given = {name: value.numpy() for name, value in batch.items()}
        given["token_type_ids"] = torch.zeros_like(batch["input_ids"]).numpy()
        with torch.no_grad():
            expected = logits(masked, batch).numpy()
        assert abs(session.run(["logits"], given)[0] - expected).max() < 1e-5


@pytest.mark.parametrize("heads", [True, False])
def test_a_mask_file_says_which_units_it_is_for(heads, tmp_path):
    model = tiny_model("bert")
    model.save_pretrained(tmp_path / "whole")
    units = head_map_of(model, GROUP, heads)
    keep = mask_of(units)
    (tmp_path / "mask.json").write_text(json.dumps({"keep": keep.tolist(), **units.to_dict()}))
    done = export_folder(tmp_path / "whole", tmp_path / "dense", "dense", mask=str(tmp_path / "mask.json"))
    assert done.certificate.equal and done.head_map == head_map_of(model, GROUP)
    assert done.keep.tolist() == ([] if heads else [True] * 8) + keep.tolist()
    dense = type(model).from_pretrained(tmp_path / "dense", dtype=torch.float64).eval()
    prune_heads(model, keep, neurons=GROUP, heads=heads)
    batch = batch_of(model)
    torch.testing.assert_close(logits(dense, batch), logits(model, batch), rtol=0, atol=1e-5)


def test_what_cards_and_records_tell(tmp_path):
    model = tiny_model("bert")
    before = parameters_of(model)["before"]
    keep = torch.ones(28, dtype=torch.bool)
    keep[[0, 8, 9, 12]] = False
    removal = prune_heads(model, keep, neurons=GROUP)
    save_pruned(model, tmp_path / "pruned")
    card = (tmp_path / "pruned" / "README.md").read_text()
    assert "# BertForSequenceClassification, 7 of 8 attention heads, 68 of 80 neurons\n" in card
    assert "| heads | 8 | 7 |\n| neurons | 80 | 68 |\n" in card
    assert "| `encoder.layer.0.output.dense` | encoder-ffn | 7 of 10 | 2-3, 5-9 |" in card
    assert "a group of 4 neurons" in card
    export_dense(model, tmp_path / "dense")
    card = (tmp_path / "dense" / "README.md").read_text()
    assert "7 of 8 attention heads, 68 of 80 neurons, dense" in card and "other heads and neurons are" in card
    heads = heads_of(model)  # of a record
    assert (heads["total"], heads["kept"], len(heads["blocks"])) == (8, 7, 4)
    assert heads["groups"] == {"total": 20, "kept": 17} and flags_of(heads) == keep.tolist()
    assert parameters_of(model) == {"before": before, "after": removal.parameters_after}
    gate_heads(model, FixedGates(torch.arange(17) > 0), neurons=GROUP, heads=False)
    closed = heads_of(model)
    assert (closed["total"], closed["kept"], closed["groups"]) == (8, 7, {"total": 20, "kept": 16})
    assert [block["name"] for block in closed["blocks"]] == [block["name"] for block in heads["blocks"]]
    assert parameters_of(model)["before"] == before
    assert parameters_of(model)["after"] < removal.parameters_after
