"""Pruned models by their names on the hub: from a cache as the hub's own library keeps it, without a
network.
"""

from __future__ import annotations

import os
import shutil

import huggingface_hub
import pytest
import torch

pytest.importorskip("transformers")
from hf_models import batch_of, tiny_model  # isort: skip

from dsp_plugin.gating import RelaxedSubset, constant_temperature
from dsp_plugin.hf import export_dense, gate_heads, head_map_of, load_pruned, prune_heads, save_pruned
from dsp_plugin.hf.export.exports import export_folder
from dsp_plugin.hf.folders.pruned_folders import load_model
from dsp_plugin.options.errors import OptionError

COMMITS = {"main": "1" * 40, "v1": "2" * 40}
NAME = "me/small"


def pruned(first):
    model = tiny_model("bert")
    prune_heads(model, torch.arange(8) < first)
    return model


@pytest.fixture
def cache(tmp_path):
    """Two versions of a pruned model; the tokenizer and the card that were saved with them have not been
    downloaded.
    """
    for first, (revision, commit) in zip((3, 5), COMMITS.items()):
        snapshot = tmp_path / "cache" / "models--me--small" / "snapshots" / commit
        save_pruned(pruned(first), tmp_path / "made", tokenizer=Tokenizer())
        snapshot.mkdir(parents=True)
        for name in ("config.json", "model.safetensors", "checksums.json"):
            shutil.copy(tmp_path / "made" / name, snapshot / name)
        refs = snapshot.parents[1] / "refs"
        refs.mkdir(exist_ok=True)
        (refs / revision).write_text(commit)
    return tmp_path / "cache"


class Tokenizer:
    def save_pretrained(self, folder):
        (folder / "tokenizer.json").write_text("{}")


def heads(model):
    return sum(len(kept) for kept in model.config.kept_heads.values())


def test_a_name_is_found_in_the_cache(cache):
    here = dict(cache_dir=cache, local_files_only=True)
    model, batch = load_pruned(NAME, dtype=torch.float64, **here), batch_of(pruned(3))
    torch.testing.assert_close(model(**batch).logits, pruned(3)(**batch).logits)
    assert heads(model) == 3 and heads(load_pruned(NAME, revision="v1", **here)) == 5
    assert heads(load_pruned(NAME, revision=COMMITS["v1"], **here)) == 5
    assert heads(load_model(NAME, dtype=torch.float64, **here)) == 3


def test_what_is_asked_of_the_hub(cache, tmp_path, monkeypatch):
    asked = []

    def download(name, **options):
        asked.append((name, options))
        return str(cache / "models--me--small" / "snapshots" / COMMITS["main"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    load_pruned(
        NAME, revision="v1", token="secret", cache_dir="c", local_files_only=False, force_download=True
    )
    ((name, options),) = asked
    patterns = options.pop("allow_patterns")
    assert name == NAME
    assert options == dict(
        revision="v1", token="secret", cache_dir="c", local_files_only=False, force_download=True
    )
    files = [
        "config.json",
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "checksums.json",
    ]
    wanted = list(
        huggingface_hub.utils.filter_repo_objects(
            [
                *files,
                "pytorch_model.bin",
                "model.onnx",
                "tf_model.h5",
                "tokenizer.json",
                "README.md",
                "optimizer.pt",
            ],
            allow_patterns=patterns,
        )
    )
    assert wanted == files
    export_dense(NAME, tmp_path / "dense")
    assert (tmp_path / "dense" / "model.safetensors").is_file() and len(asked) == 2


def test_a_part_of_a_repository(cache, tmp_path, monkeypatch):
    asked = []

    def download(name, **options):
        asked.append(options["allow_patterns"])
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert heads(load_pruned(NAME, subfolder="made")) == 5
    assert all(pattern.startswith("made/") for pattern in asked[0])
    assert heads(load_pruned(tmp_path, subfolder="made")) == 5 and len(asked) == 1


def test_a_folder_that_is_there_wins(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("the hub was asked")
    )
    save_pruned(pruned(7), NAME)
    assert heads(load_pruned(NAME, cache_dir=cache, revision="v1")) == 7
    os.remove(f"{NAME}/config.json")
    with pytest.raises(
        FileNotFoundError, match="me/small is not the folder of a model: there is no config.json in it"
    ):
        load_pruned(NAME)


@pytest.mark.parametrize("call", [load_pruned, load_model, lambda name, **more: export_dense(name, "out")])
def test_a_name_that_is_neither(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))

    def download(name, **options):
        raise huggingface_hub.errors.LocalEntryNotFoundError(f"no {name} in the cache\nand much more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(FileNotFoundError) as caught:
        call("me/smal", local_files_only=True)
    assert str(caught.value) == (
        f"me/smal is neither a folder ({tmp_path}/me/smal) nor, as far as can be seen from here, a model of "
        "the hub "
        "(LocalEntryNotFoundError: no me/smal in the cache)"
    )
    for path in (tmp_path / "nothing", "./nothing", "a/b/c"):  # no names of the hub: it is not asked
        with pytest.raises(FileNotFoundError, match="is not the folder of a model"):
            call(path)


def test_the_hubs_own_library_says_what_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="me/smal is neither a folder .* nor, .* a model of the hub"):
        load_pruned("me/smal", cache_dir=tmp_path, local_files_only=True)


def test_a_damaged_download_is_refused(cache):
    snapshot = cache / "models--me--small" / "snapshots" / COMMITS["main"]
    weights = (snapshot / "model.safetensors").read_bytes()
    (snapshot / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(ValueError, match="model.safetensors is damaged: its content does not fit"):
        load_pruned(NAME, cache_dir=cache, local_files_only=True)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no weights"):
        load_pruned(NAME, cache_dir=cache, local_files_only=True)


def test_an_export_by_name(cache, tmp_path, monkeypatch):
    snapshot = cache / "models--me--small" / "snapshots" / COMMITS["main"]
    gated = tiny_model("bert")
    gate_heads(gated, RelaxedSubset(head_map_of(gated), 4, constant_temperature(1.0)))
    gated.save_pretrained(tmp_path / "gated")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: str(snapshot))
    done = export_folder(NAME, tmp_path / "dense", "dense")
    assert done.certificate.equal and int(done.keep.sum()) == 3
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: str(tmp_path / "gated"))
    says_not = "^num_of_heads K or mask .*has head scores, but says not how many heads to keep"
    with pytest.raises(OptionError, match=says_not):
        export_folder("me/gated", tmp_path / "none", "dense")
    assert int(export_folder("me/gated", tmp_path / "two", "dense", num_of_heads=2).keep.sum()) == 2
