"""A file of DSEE on a base that had lost heads before opens on that base's folder, labels and all."""

from __future__ import annotations

import dsp_plugin.hf  # noqa: F401  (first: it hides a torchaudio that cannot be loaded)  isort: skip

import torch
from hf_programs import HEADS, write_bert
from transformers import AutoModelForSequenceClassification

from dsp_plugin.hf import load_pruned, prune_heads, save_pruned
from dsp_plugin.hf.dsee import add_dsee, open_dsee, save_dsee


def test_it_opens_with_its_labels_and_equal_outputs(tmp_path):
    whole = AutoModelForSequenceClassification.from_pretrained(write_bert(tmp_path / "base"), num_labels=3)
    prune_heads(whole, torch.arange(HEADS) != 1)
    save_pruned(whole, tmp_path / "pruned")
    model = load_pruned(tmp_path / "pruned", AutoModelForSequenceClassification).eval()
    add_dsee(model, rank=2, num_sparse=3, seed=1)
    save_dsee(model, tmp_path / "task.dsee.safetensors")
    opened = open_dsee(tmp_path / "task.dsee.safetensors", tmp_path / "pruned").eval()
    words = torch.arange(6)[None] + 3
    assert opened.config.num_labels == 3
    assert torch.equal(opened(words).logits, model(words).logits)
