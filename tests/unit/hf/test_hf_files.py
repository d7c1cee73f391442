"""Folders of pruned models: what is in them, how they load, and what is said when they do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import TOLERANCE, batch_of, logits, tiny_model  # isort: skip
from killed_everywhere import killed_everywhere
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from dsp_plugin.hf import (
    compare,
    export_dense,
    load_pruned,
    prune_heads,
    random_batches,
    record_of,
    save_pruned,
    write_certificate,
)
from dsp_plugin.records.files.sealed_folder import check_sealed

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path):
    """A pruned BERT, 3 of 8 heads, all in the first block."""
    model = tiny_model("bert")
    prune_heads(model, torch.arange(8) < 3)
    save_pruned(model, tmp_path / "pruned")
    return tmp_path / "pruned"


def test_what_is_in_the_folder(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["kept_heads"] == {"encoder.layer.0.attention": [0, 1, 2], "encoder.layer.1.attention": []}
    assert config["num_attention_heads"] == 4 and config["architectures"] == ["BertForSequenceClassification"]
    tensors = load_file(folder / "model.safetensors")
    assert tensors["bert.encoder.layer.0.attention.self.query.weight"].shape == (24, 32)
    assert tensors["bert.encoder.layer.1.attention.output.dense.weight"].shape == (32, 0)
    card = (folder / "README.md").read_text()
    stock = sum(weight.numel() for weight in tiny_model("bert").parameters())
    removed = 5 * (3 * 33 * 8 + 32 * 8)
    assert f"| parameters | {stock:,} | {stock - removed:,} |" in card and "load_pruned" in card
    assert "| `encoder.layer.1.attention` | encoder-self | 0 of 4 | – |" in card


def test_a_fresh_process_reads_it(tmp_path):
    expected = {}
    for family, auto in (("bert", "AutoModelForSequenceClassification"), ("t5", "AutoModelForSeq2SeqLM")):
        model = tiny_model(family)
        prune_heads(model, torch.arange(24 if family == "t5" else 8) % 3 == 0)
        save_pruned(model, tmp_path / family)
        export_dense(model, tmp_path / f"{family}-dense")
        expected[family] = auto, {**batch_of(model)}, model(**batch_of(model)).logits.detach()
    torch.save(expected, tmp_path / "expected.pt")
    program = (
        "import sys, torch, dsp_plugin.hf, transformers\n"
        "folder = sys.argv[1]\n"
        "for family, (auto, batch, logits) in torch.load(folder + '/expected.pt').items():\n"
        "    pruned = dsp_plugin.hf.load_pruned(f'{folder}/{family}', dtype=torch.float64).eval()\n"
        "    dense = getattr(transformers, auto).from_pretrained(f'{folder}/{family}-dense', "
        "dtype=torch.float64).eval()\n"
        "    print(*(float((model(**batch).logits - logits).abs().max()) for model in (pruned, dense)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    bert, t5 = (list(map(float, line.split())) for line in done.stdout.splitlines()[-2:])
    assert max(bert) <= 1e-10 and max(t5) <= TOLERANCE["t5"]


def test_a_kill_while_it_is_written_over_another_leaves_one_of_both(folder, tmp_path):
    (folder / "tokenizer.json").write_text("{}")  # which stays
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model, kills = tiny_model("bert"), 0
    prune_heads(model, torch.arange(8) >= 3)
    for _ in killed_everywhere(lambda: save_pruned(model, folder), every=3):
        kills += 1
        after = {path.name: path.read_bytes() for path in folder.iterdir()}
        if after != before:
            assert record_of(load_pruned(folder)) == record_of(model) and after["tokenizer.json"] == b"{}"
    assert kills >= 3 and check_sealed(folder)
    assert torch.equal(load_pruned(folder).classifier.weight, model.classifier.weight)
    assert os.listdir(tmp_path) == ["pruned"]


def test_other_things_in_its_folder_stay_and_another_models_files_go(folder):
    names = {path.name for path in folder.iterdir()}
    for name in ("notes.txt", "training_args.bin", "runs/log"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("of the user")
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin"):
        (folder / name).write_text("of another model")
    model = tiny_model("bert")
    prune_heads(model, torch.arange(8) < 2)
    save_pruned(model, folder)
    assert {path.name for path in folder.iterdir()} == {*names, "notes.txt", "training_args.bin", "runs"}
    load_pruned(folder)


def test_other_classes_and_another_task_head(folder):
    model = load_pruned(folder, dtype=torch.float64)
    base = load_pruned(folder, AutoModel, dtype=torch.float64)
    assert type(base).__name__ == "BertModel" and record_of(base) == record_of(model)
    batch = batch_of(model)
    assert torch.equal(base(**batch).last_hidden_state, model.bert(**batch).last_hidden_state)
    with pytest.raises(
        ValueError, match="BertForTokenClassification wants of classifier.bias.*ignore_mismatched_sizes"
    ):
        load_pruned(folder, AutoModelForTokenClassification, num_labels=5)
    tagger = load_pruned(folder, AutoModelForTokenClassification, num_labels=5, ignore_mismatched_sizes=True)
    assert type(tagger).__name__ == "BertForTokenClassification" and tagger.classifier.out_features == 5
    masked_language = load_pruned(folder, AutoModelForMaskedLM)
    assert masked_language.cls.predictions.decoder.out_features == 40


def test_what_save_pretrained_wrote_loads_too(folder, tmp_path):
    model = load_pruned(folder, dtype=torch.float64, attn_implementation="eager")
    assert model.config._attn_implementation == "dsp_eager"
    model.save_pretrained(tmp_path / "again", max_shard_size="20KB")
    assert (tmp_path / "again" / "model.safetensors.index.json").exists()
    again = load_pruned(tmp_path / "again", dtype=torch.float64)
    batch = batch_of(model)
    torch.testing.assert_close(logits(again, batch), logits(model, batch), rtol=0, atol=1e-10)
    prune_heads(again, [True, False, True])
    assert record_of(again)["encoder.layer.0.attention"] == [0, 2]


def test_stock_from_pretrained_refuses_the_shapes(folder):
    with pytest.raises(RuntimeError, match="size mismatch|mismatched|do not match"):
        AutoModelForSequenceClassification.from_pretrained(folder)


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drop_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["bert.encoder.layer.0.attention.self.query.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE = {
    "no config": (lambda f: (f / "config.json").unlink(), FileNotFoundError, "no config.json"),
    "half a config": (lambda f: truncate(f / "config.json"), ValueError, "config.json is damaged"),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        FileNotFoundError,
        "model.safetensors is missing",
    ),
    "truncated weights": (
        lambda f: truncate(f / "model.safetensors"),
        ValueError,
        "model.safetensors is damaged",
    ),
    "a tensor missing": (drop_tensor, ValueError, "lack .*layer.0.attention.self.query.weight"),
    "no record": (lambda f: edit_config(f, kept_heads=None), ValueError, "no record of kept heads"),
    "another model's record": (
        lambda f: edit_config(f, kept_heads={"encoder.layer.7.attention": [0]}),
        ValueError,
        "record of kept heads is of another",
    ),
    "heads that never were": (
        lambda f: edit_config(
            f, kept_heads={"encoder.layer.0.attention": [0, 1, 9], "encoder.layer.1.attention": []}
        ),
        ValueError,
        "which had 4 heads",
    ),
    "another number of heads": (
        lambda f: edit_config(
            f, kept_heads={"encoder.layer.0.attention": [0, 1], "encoder.layer.1.attention": []}
        ),
        ValueError,
        "does not fit its own record",
    ),
    "an unknown class": (
        lambda f: edit_config(f, architectures=["NoSuchModel"]),
        ValueError,
        "NoSuchModel.*give model_class",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused(damage, folder):
    harm, error, message = DAMAGE[damage]
    harm(folder)
    with pytest.raises(
        (ValueError, FileNotFoundError), match="is damaged: (its content does|.*is missing)|no config.json"
    ):
        load_pruned(folder)
    (folder / "checksums.json").unlink()  # as of earlier versions
    for options in ({}, {"ignore_mismatched_sizes": True}):
        with pytest.raises(error, match=message) as caught:
            load_pruned(folder, **options)
        assert str(folder) in str(caught.value)


def test_a_model_with_all_its_heads_is_not_written_as_a_pruned_one(tmp_path, folder):
    with pytest.raises(ValueError, match="has not been pruned"):
        save_pruned(tiny_model("bert"), tmp_path / "x")
    with pytest.raises(ValueError, match="has all its heads"):
        export_dense(tiny_model("bert"), tmp_path / "x")
    with pytest.raises(ValueError, match="folder of the pruned model itself"):
        export_dense(folder, folder)
    assert not (tmp_path / "x").exists()


def test_the_certificate(folder, tmp_path):
    pruned = load_pruned(folder, dtype=torch.float64)
    export_dense(folder, tmp_path / "dense")
    dense = AutoModelForSequenceClassification.from_pretrained(tmp_path / "dense", dtype=torch.float64)
    batches = list(random_batches(pruned, count=2, size=3, length=8))
    pruned.train()
    certificate = compare(pruned, dense, batches, tolerance=1e-10, data="random ids")
    assert pruned.training and not dense.training
    assert certificate.equal and certificate.largest_difference <= 1e-10 < certificate.largest_output
    assert (certificate.tokens, certificate.sequences) == (2 * (8 + 7 + 6), 6)
    path = write_certificate(certificate, tmp_path / "dense")
    content = json.loads(path.read_text())
    assert content["equal"] is True and content["data"] == "random ids" and content["outputs"] == ["logits"]
    assert len(content["sha256"]["model.safetensors"]) == 64

    with torch.no_grad():
        dense.classifier.bias[1] += 0.5
    other = compare(pruned, dense, batches, tolerance=1e-10)
    assert not other.equal and other.largest_difference == pytest.approx(0.5)
    with torch.no_grad():
        dense.classifier.bias[0] = float("nan")
    assert not compare(pruned, dense, batches).equal
    with pytest.raises(ValueError, match="no batch"):
        compare(pruned, dense, [])


@pytest.mark.parametrize("first", ["transformers", "dsp_plugin.hf"])
def test_a_torchaudio_that_cannot_be_loaded_stops_nobody(first, tmp_path):
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text("import torchaudio.inner\n")
    (tmp_path / "torchaudio" / "inner.py").write_text("raise OSError('built for another torch')\n")
    program = f"import {first}, dsp_plugin.hf\nfrom transformers import BertModel\n"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=env, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_a_class_that_is_not_at_the_top_of_transformers(tmp_path):
    from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig
    from transformers.models.musicgen.modeling_musicgen import MusicgenDecoder

    config = MusicgenDecoderConfig(
        vocab_size=40,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=40,
        num_codebooks=2,
        max_position_embeddings=40,
        pad_token_id=1,
        bos_token_id=0,
    )
    model = MusicgenDecoder(config).eval()
    prune_heads(model, [True, False] * 8, check=False)
    save_pruned(model, tmp_path, check=False)
    assert type(load_pruned(tmp_path)) is MusicgenDecoder


@pytest.mark.parametrize("name", ["pipeline", "os", "AutoModel", "Nothing", "BertConfig", 3])
def test_a_class_name_that_is_no_model(tmp_path, name):
    from transformers import BertConfig

    from dsp_plugin.hf.folders.model_folder import class_of

    config = BertConfig()
    config.architectures = [name]
    with pytest.raises(ValueError, match="which this Transformers does not have"):
        class_of(tmp_path, config, None)
