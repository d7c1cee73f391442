"""`dsp dsee` on files and Transformers folders."""

from __future__ import annotations

import copy
import json

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import batch_of, logits, tiny_model  # isort: skip

pytest.importorskip("peft")
from transformers import AutoModelForSequenceClassification

from dsp_plugin.cli.main import main
from dsp_plugin.hf import load_pruned
from dsp_plugin.hf.dsee import add_dsee, mask_updates, prune_units, prune_weights, save_dsee
from dsp_plugin.records.files.sealed_folder import check_sealed


def dsp(*arguments) -> int:
    return main(["dsee", *map(str, arguments)])


def outputs(model):
    with torch.no_grad():
        return logits(model.eval(), batch_of(model))


@pytest.fixture
def trained(tmp_path):
    """A base's folder, and a model made of it, as if it were trained."""
    model = tiny_model("bert", dtype=torch.float32)
    model.save_pretrained(tmp_path / "base")
    add_dsee(model, rank=3, alpha=6, num_sparse=5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def test_inspect_counts(trained, tmp_path, capsys):
    prune_weights(trained, 0.25, 0.5)
    path = tmp_path / "task.dsee.safetensors"
    size = save_dsee(trained, path)
    assert dsp("inspect", path) == 0
    text = capsys.readouterr().out
    assert f"{size:,} bytes" in text and "sparse 20 (20 not zero) in 4 matrices" in text
    assert dsp("inspect", path, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["entries"] == 20 and figures["low_rank"] == 4 * 3 * 64 and figures["task_head"] == 66
    assert figures["file_bytes"] == size == path.stat().st_size
    assert figures["pruned"] == int(0.5 * 4 * 1024 + 0.5) + int(0.25 * (figures["masked"] - 4 * 1024) + 0.5)


def test_merge_writes_what_stock_transformers_loads(trained, tmp_path):
    prune_weights(trained, 0.3, 0.3)
    path, base = tmp_path / "task.dsee.safetensors", tmp_path / "base"
    save_dsee(trained, path)
    before = {file.name: file.read_bytes() for file in base.iterdir()}
    expected = {}
    expected["merged"] = outputs(trained)
    mask_updates(trained)
    expected["sparse"] = outputs(trained)
    assert dsp("merge", path, base, "--out", tmp_path / "merged") == 0
    assert dsp("merge", path, base, "--out", tmp_path / "sparse", "--masked") == 0
    for name, values in expected.items():
        check_sealed(tmp_path / name)
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / name)
        torch.testing.assert_close(outputs(loaded), values, rtol=0, atol=1e-5)
    assert {file.name: file.read_bytes() for file in base.iterdir()} == before


def test_merge_of_a_model_that_lost_units(trained, tmp_path):
    prune_units(trained, prune_heads_num=1, neurons=0.4, group=4)
    path, base = tmp_path / "task.dsee.safetensors", tmp_path / "base"
    save_dsee(trained, path)
    assert dsp("merge", path, base, "--out", tmp_path / "small") == 0
    assert dsp("merge", path, base, "--out", tmp_path / "dense", "--dense") == 0
    torch.testing.assert_close(outputs(load_pruned(tmp_path / "small")), outputs(trained), rtol=0, atol=1e-5)
    dense = AutoModelForSequenceClassification.from_pretrained(tmp_path / "dense")
    torch.testing.assert_close(outputs(dense), outputs(trained), rtol=0, atol=1e-5)


def test_what_does_not_belong_together_is_refused_and_nothing_written(trained, tmp_path, capsys):
    path, base = tmp_path / "task.dsee.safetensors", tmp_path / "base"
    save_dsee(trained, path)
    other = copy.deepcopy(tiny_model("bert", dtype=torch.float32))
    with torch.no_grad():
        other.bert.encoder.layer[0].output.dense.weight[0, 0] += 1
    other.save_pretrained(tmp_path / "other")

    def refused(said, *arguments):
        assert dsp(*arguments) == 1
        assert said in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    out = ("--out", tmp_path / "out")
    refused("wrong base", "merge", path, tmp_path / "other", *out)
    refused("no Transformers folder", "merge", path, tmp_path / "none", *out)
    refused("has all of them", "merge", path, base, *out, "--dense")
    refused("is the base itself", "merge", path, base, "--out", base)
    refused("not a DSEE file", "inspect", base / "model.safetensors")
    refused("no DSEE file", "inspect", tmp_path / "none")
    path.write_bytes(path.read_bytes()[:-1])
    refused("truncated", "merge", path, base, *out)
