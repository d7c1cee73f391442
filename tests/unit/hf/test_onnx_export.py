"""ONNX files of pruned models, run by ONNX Runtime, beside the masked models."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
for _package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(
        _package, reason="ONNX export needs onnx, onnxscript and onnxruntime: `make venv` installs them"
    )

import onnx
import onnxruntime
from hf_models import VOCABULARY, batch_of, tiny_model, uneven_mask
from transformers import BartConfig, BartForSequenceClassification

from dsp_plugin.gating import FixedGates
from dsp_plugin.hf import count_parameters, gate_heads, head_map_of, prune_heads
from dsp_plugin.hf.export import onnx_export
from dsp_plugin.hf.export.onnx_export import export_onnx
from dsp_plugin.records.certificate import ExportError

# an encoder, a decoder, and both; scripts/hf/check_families.py takes every family
of_all = pytest.mark.parametrize("exported", ["bert", "gpt2", "bart"], indirect=True)
of_the_encoder = pytest.mark.parametrize("exported", ["bert"], indirect=True)
of_decoders = pytest.mark.parametrize("exported", ["gpt2", "bart"], indirect=True)
TOKENS = 6


@pytest.fixture(scope="module")
def exported(request, tmp_path_factory):
    """One family: the masked and the pruned model, the folder, the certificate. The second block has no
    head.
    """
    masked = tiny_model(request.param, dtype=torch.float32)
    blocks = [block.num_heads for block in head_map_of(masked).blocks]
    pruned = copy.deepcopy(masked)
    gate_heads(masked, FixedGates(uneven_mask(sum(blocks), blocks)))
    prune_heads(pruned, uneven_mask(sum(blocks), blocks))
    folder = tmp_path_factory.mktemp(request.param) / "onnx"
    certificate = export_onnx(pruned, folder)
    return SimpleNamespace(
        family=request.param, masked=masked.eval(), pruned=pruned, folder=folder, certificate=certificate
    )


def session(folder, name="model.onnx"):
    """run(inputs as tensors) -> {output name: array}; inputs the graph does not have are left out"""
    loaded = onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
    names, outputs = [i.name for i in loaded.get_inputs()], [o.name for o in loaded.get_outputs()]

    def run(inputs):
        return dict(zip(outputs, loaded.run(None, {name: np.asarray(inputs[name]) for name in names})))

    run.inputs, run.outputs = loaded.get_inputs(), outputs
    return run


def past(outputs):
    return {
        name.replace("present", "past_key_values"): value
        for name, value in outputs.items()
        if "present" in name
    }


@of_all
def test_what_is_written(exported):
    graphs = {"bart": ["decoder_model.onnx", "encoder_model.onnx"]}.get(exported.family, ["model.onnx"])
    files = sorted(path.name for path in exported.folder.iterdir() if path.suffix == ".onnx")
    assert files == graphs
    assert json.loads((exported.folder / "config.json").read_text())["kept_heads"]
    written = json.loads((exported.folder / "certificate.json").read_text())
    assert written["equal"] is True and written["data"] == "random ids" and written["dtype"] == "float32"
    assert sorted(written["sha256"]) == graphs and written["tokens"] == exported.certificate.tokens > 30
    assert 0 < exported.certificate.largest_difference < 1e-4 < exported.certificate.largest_output
    assert [path.name for path in exported.folder.parent.iterdir()] == ["onnx"]


@of_all
def test_the_graph_is_as_small_as_the_pruned_model(exported):
    weights = sum(
        int(np.prod(tensor.dims))
        for path in exported.folder.glob("*.onnx")
        for tensor in onnx.load(path).graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    )
    # an embedding matrix that is shared may be in both graphs, and once more transposed
    copies = {"bert": 0, "gpt2": 1, "bart": 2}[
        exported.family
    ] * exported.pruned.get_input_embeddings().weight.numel()
    small, whole = (count_parameters(model) for model in (exported.pruned, exported.masked))
    assert weights <= small + copies < whole + copies - 1000


@of_the_encoder
@pytest.mark.parametrize("size, length", [(1, 1), (3, 7), (5, 20)])
def test_any_batch_and_length(exported, size, length):
    batch = batch_of(exported.masked, size=size, length=length, padding=size == 3)
    batch["token_type_ids"] = (torch.arange(length) % 2).expand(size, -1).contiguous()
    with torch.no_grad():
        expected = exported.masked(**batch).logits
        without = exported.masked(**{**batch, "token_type_ids": torch.zeros_like(batch["input_ids"])}).logits
        assert length == 1 or not torch.allclose(expected, without)
    found = session(exported.folder)(batch)["logits"]
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)


@of_decoders
def test_greedy_search_by_hand(exported):
    """Written from the list of inputs and outputs alone, with padding on the left."""
    batch = batch_of(exported.masked)
    prompt = {name: batch[name] for name in ("input_ids", "attention_mask")}
    search = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False, "num_beams": 1}
    expected = exported.masked.generate(**prompt, **search)
    if exported.family == "gpt2":
        step, given, ids, mask = session(exported.folder), {}, prompt["input_ids"], prompt["attention_mask"]
        layers = [i for i in step.inputs if i.name.startswith("past")]
    else:
        encoded = session(exported.folder, "encoder_model.onnx")(prompt)
        step = session(exported.folder, "decoder_model.onnx")
        given = {**past(encoded), "encoder_attention_mask": prompt["attention_mask"]}
        ids = torch.full((3, 1), exported.masked.config.decoder_start_token_id)
        mask = torch.ones_like(ids)
        layers = [i for i in step.inputs if i.name.startswith("past") and ".decoder." in i.name]
    given |= {i.name: np.zeros((3, i.shape[1], 0, i.shape[3]), np.float32) for i in layers}
    new = ids
    for _ in range(TOKENS):
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -new.shape[1] :]
        outputs = step({**given, "input_ids": new, "attention_mask": mask, "position_ids": positions})
        scores = torch.from_numpy(outputs["logits"])[:, -1]
        scores[:, exported.masked.config.eos_token_id] = -torch.inf  # min_new_tokens
        new = scores.argmax(-1, keepdim=True)
        ids, mask = torch.cat([ids, new], 1), torch.cat([mask, torch.ones_like(new)], 1)
        given |= past(outputs)
    assert ids.tolist() == expected.tolist()


@of_decoders
def test_blocks_without_heads_have_no_cache(exported):
    """The second block in the order of the HeadMap: GPT-2's second layer; BART's second encoder layer."""
    step = session(exported.folder, "model.onnx" if exported.family == "gpt2" else "decoder_model.onnx")
    heads = {i.name: i.shape[1] for i in step.inputs if i.name.startswith("past")}
    kinds = {"gpt2": ("",), "bart": (".decoder", ".encoder")}[exported.family]
    blocks = head_map_of(exported.pruned).blocks
    expected = {}
    for kind in kinds:
        of_kind = [b for b in blocks if b.kind == ("decoder-cross" if kind == ".encoder" else "decoder-self")]
        for layer, block in enumerate(of_kind):
            if block.num_heads:
                expected |= {
                    f"past_key_values.{layer}{kind}.{part}": block.num_heads for part in ("key", "value")
                }
    assert heads == expected
    assert [o for o in step.outputs if "encoder" in o] == []


def test_an_export_that_differs_is_not_written(tmp_path, monkeypatch):
    def write_nothing(graph, path):
        path.write_bytes(b"")

    class Other(torch.nn.Module):
        def __init__(self, *_):
            super().__init__()

        def forward(self, **batch):
            return {"logits": exported_logits + 0.5}

    model = tiny_model("distilbert", dtype=torch.float32)
    batch = batch_of(model)
    with torch.no_grad():
        exported_logits = model(**batch).logits
    monkeypatch.setattr(onnx_export, "write_graph", write_nothing)
    monkeypatch.setattr(onnx_export, "OnnxModel", Other)
    with pytest.raises(ExportError, match="differ by up to 0.5 .*nothing was written"):
        export_onnx(model, tmp_path / "out", [batch], "text")
    assert list(tmp_path.iterdir()) == []
    # an earlier export stays, too, and other folders are never touched
    for name, mark in (("earlier", "certificate.json"), ("other", "thesis.tex")):
        (tmp_path / name).mkdir()
        (tmp_path / name / mark).write_text("{}")
    with pytest.raises(ExportError):
        export_onnx(model, tmp_path / "earlier", [batch], "text")
    with pytest.raises(FileExistsError, match="holds other things"):
        export_onnx(model, tmp_path / "other", [batch], "text")
    assert {path.name: [file.name for file in path.iterdir()] for path in tmp_path.iterdir()} == {
        "earlier": ["certificate.json"],
        "other": ["thesis.tex"],
    }


def test_an_encoder_decoder_that_does_not_generate_is_refused(tmp_path):
    sizes = dict(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2
    )
    config = BartConfig(
        vocab_size=VOCABULARY, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=16, **sizes
    )
    with pytest.raises(ValueError, match="BartForSequenceClassification cannot be exported to ONNX.*dense"):
        export_onnx(BartForSequenceClassification(config), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_decoder_whose_layers_are_not_numbered_is_refused(tmp_path):
    model = tiny_model("gpt-neo")
    gate_heads(model, FixedGates(torch.ones(head_map_of(model).num_heads)))
    with pytest.raises(
        ValueError, match="GPTNeoForCausalLM cannot be exported to ONNX: .* which layer of a cache"
    ):
        export_onnx(model, tmp_path / "onnx", [batch_of(model)], "random ids")


def test_a_module_of_a_users_own_is_refused(tmp_path):
    from sentence_pairs import SentencePair

    with pytest.raises(ValueError, match="SentencePair is no Transformers model.*export_dense"):
        export_onnx(SentencePair(), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
