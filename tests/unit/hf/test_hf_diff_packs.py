"""Packs on Transformers models: mixed batches of several architectures, merged folders, the hub."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

import torch
from diff_packs import random_diff, random_pack, same, snapshot, take_way
from hf_models import batch_of, tiny_model  # first: it imports dsp_plugin.hf
from transformers import AutoModelForSequenceClassification, BertModel

from dsp_plugin.artefacts.base import Base
from dsp_plugin.cli.main import main
from dsp_plugin.diffs.packs.pack import DiffPack
from dsp_plugin.diffs.serving.bank import DiffBank
from dsp_plugin.hf.diffs.hub import PACK_FILE, from_hub, push_to_hub

TASKS = ["b", "a", "c", "a", "b"]


@pytest.mark.parametrize("way", ["whole", "sparse", "compiled"])
@pytest.mark.parametrize("family", ["bert", "distilbert", "albert", "gpt2", "llama", "bart"])
def test_a_mixed_batch_gives_the_answers_one_by_one(family, way, monkeypatch):
    """As many tokens as rows, so that a dimension of tokens could be taken for one of rows."""
    take_way(way, monkeypatch)
    model = tiny_model(family)
    base = snapshot(model)
    task_head = [name for name in ("classifier", "pre_classifier") if hasattr(model, name)]
    bank = DiffBank(model, rows_first=True)
    for seed, name in enumerate("abc"):
        pack = DiffPack.create(random_diff(Base.of(model, task_head), seed, 0.05), Base.of(model, task_head))
        bank.add(name, pack)
    batch = batch_of(model, size=5, length=5, padding=False)
    batch |= {"use_cache": False} if family in ("gpt2", "llama", "bart") else {}
    expected = []
    for row, name in enumerate(TASKS):
        bank.switch(name)
        with torch.no_grad():
            single = {
                key: value[row : row + 1] if torch.is_tensor(value) else value for key, value in batch.items()
            }
            expected.append(model(**single).logits[0])
    bank.switch(None)
    mixed = bank.run(TASKS, **batch).logits
    # Llama computes its norms in single precision
    assert torch.allclose(mixed, torch.stack(expected), atol=1e-5 if family == "llama" else 1e-11)
    assert float((mixed[0] - mixed[1]).abs().max()) > 1e-3, "tasks answer differently"
    assert same(snapshot(model), base)


def test_t5s_position_bias_is_refused_by_name():
    model = tiny_model("t5")
    bank = DiffBank(model)
    bank.add("a", random_pack(model, 1, task_head=()))
    with pytest.raises(ValueError, match="relative_attention_bias.*use grouped"):
        bank.run(["a"], **batch_of(model, size=1))


def test_a_cache_is_refused():
    model = tiny_model("gpt2")
    bank = DiffBank(model)
    bank.add("a", random_pack(model, 1, task_head=()))
    with pytest.raises(ValueError, match="use_cache=False"):
        bank.run(["a", "a"], **batch_of(model, size=2))


def test_a_pack_made_with_a_head_is_merged_into_the_bare_base(tmp_path):
    """The base is saved as `BertModel`; the merged folder loads with stock Transformers as a classifier."""
    model = tiny_model("bert", dtype=torch.float32)
    model.bert.save_pretrained(tmp_path / "base")
    settings = {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {str(n): str(n) for n in range(3)},
        "label2id": {str(n): n for n in range(3)},
    }
    pack = random_pack(model, 4, labels=3, config={"model_config": settings})
    pack.save(tmp_path / "task.diff")
    assert (
        main(
            [
                "diff",
                "merge",
                str(tmp_path / "task.diff"),
                str(tmp_path / "base"),
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    merged, loading = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and merged.num_labels == 3
    assert torch.equal(merged.classifier.weight, pack.task_head["classifier.weight"])
    pack.apply(model.bert, task_head=False)
    for name, weight in merged.bert.state_dict().items():
        assert torch.equal(weight, model.bert.state_dict()[name]), name


def test_apply_in_place_to_a_folder_of_stock_transformers(tmp_path):
    model = tiny_model("bert", dtype=torch.float32)
    model.bert.save_pretrained(tmp_path / "base")
    random_pack(model, 4).save(tmp_path / "task.diff")
    before = snapshot(BertModel.from_pretrained(tmp_path / "base"))
    assert main(["diff", "apply", str(tmp_path / "task.diff"), str(tmp_path / "base")]) == 0
    random_pack(model, 4).apply(model.bert, task_head=False)
    assert same(snapshot(BertModel.from_pretrained(tmp_path / "base")), snapshot(model.bert))
    assert main(["diff", "revert", str(tmp_path / "base")]) == 0
    assert same(snapshot(BertModel.from_pretrained(tmp_path / "base")), before)


class FakeHub:
    """A folder in the place of the hub."""

    def __init__(self, folder, monkeypatch):
        import huggingface_hub

        self.folder, self.created, self.revisions = folder, [], []
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda token=None: self)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self.download)

    def create_repo(self, repo_id, private=None, exist_ok=False):
        self.created.append((repo_id, private, exist_ok))

    def upload_folder(self, repo_id, folder_path, commit_message):
        import shutil

        shutil.copytree(folder_path, self.folder / repo_id)
        return f"https://hub/{repo_id}/commit/1"

    def download(self, repo_id, filename, revision=None, token=None, cache_dir=None):
        self.revisions.append(revision)
        return str(self.folder / repo_id / filename)


def test_to_the_hub_and_back(tmp_path, monkeypatch):
    hub = FakeHub(tmp_path, monkeypatch)
    pack = random_pack(tiny_model("bert"), 4)
    assert (
        push_to_hub(pack, "me/cola", base_model="bert-base-cased", private=True)
        == "https://hub/me/cola/commit/1"
    )
    assert hub.created == [("me/cola", True, True)]
    assert from_hub("me/cola").to_bytes() == pack.to_bytes()
    assert from_hub("me/cola", revision="v2").to_bytes() == pack.to_bytes() and hub.revisions == [None, "v2"]
    card = (tmp_path / "me" / "cola" / "README.md").read_text()
    assert (
        "base_model: bert-base-cased\n" in card and pack.base.hash in card and 'from_hub("me/cola")' in card
    )
    pack = random_pack(tiny_model("bert"), 4, config={"base_model": "model"})  # a folder it was loaded from
    push_to_hub(pack, "me/local")
    card = (tmp_path / "me" / "local" / "README.md").read_text()
    assert "base_model:" not in card and "A sparse task diff for `model`" in card
    file = tmp_path / "me" / "cola" / PACK_FILE
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated"):
        from_hub("me/cola")
