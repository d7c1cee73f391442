"""A user's own model around a Transformers encoder: it learns with K heads, is pruned, saved, and read in
a fresh process.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
from sentence_pairs import SentencePair, accuracy, pairs  # first: see there  isort: skip

import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from dsp_plugin.gating import ExponentialCooling, RelaxedSubset
from dsp_plugin.hf import gate_heads, head_map_of, load_pruned, prune_heads, save_pruned
from dsp_plugin.hf.heads.training import HeadGatesCallback, pruning_optimizers

K, UPDATES = 3, 300
ROOT = Path(__file__).resolve().parents[2]
RELOAD = """
import sys, torch
sys.path[:0] = [{root!r}, {tests!r}]
from sentence_pairs import SentencePair, pairs
from dsp_plugin.hf import load_pruned
from safetensors.torch import save_file
model = load_pruned({folder!r}, model=SentencePair()).eval()
data = pairs(50, 3)
with torch.no_grad():
    first, second = (torch.stack([row[name] for row in data]) for name in ("first", "second"))
    logits = model(first, second)["logits"]
save_file({{"logits": logits}}, {out!r})
"""


def test_a_sentence_pair_model_whole(tmp_path):
    torch.manual_seed(1)
    model = SentencePair()
    model.encoder.activation_checkpointing_enable()
    before = model.head[0].weight.detach().clone()
    gate_heads(model, RelaxedSubset(head_map_of(model), K, ExponentialCooling(5.0, 1e-3, UPDATES // 2)))
    args = TrainingArguments(
        tmp_path / "out",
        max_steps=UPDATES,
        per_device_train_batch_size=64,
        learning_rate=3e-3,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        label_names=["labels"],
    )
    Trainer(
        model,
        args,
        train_dataset=pairs(6000, 1),
        optimizers=pruning_optimizers(model, args, UPDATES, pruning_lr=0.1, joint=True),
        callbacks=[HeadGatesCallback(model)],
    ).train()
    model.eval()
    held_out = pairs(400, 2)
    assert not torch.equal(model.head[0].weight, before)  # what is around the encoder learns, too

    masked = accuracy(model, held_out)
    data = pairs(50, 3)
    first, second = (torch.stack([row[name] for row in data]) for name in ("first", "second"))
    with torch.no_grad():
        expected = model(first, second)["logits"]
        removal = prune_heads(model)
        pruned = model(first, second)["logits"]
    assert removal.heads_after == K
    torch.testing.assert_close(pruned, expected, rtol=0, atol=1e-5)
    assert accuracy(model, held_out) == masked > 0.9

    save_pruned(model, tmp_path / "pruned")
    script = RELOAD.format(
        root=str(ROOT),
        tests=str(ROOT / "tests" / "helpers"),
        folder=str(tmp_path / "pruned"),
        out=str(tmp_path / "found"),
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    reloaded = load_file(tmp_path / "found")["logits"]
    torch.testing.assert_close(reloaded, pruned, rtol=0, atol=1e-6)
    assert head_map_of(load_pruned(tmp_path / "pruned", model=SentencePair())) == head_map_of(model)
    print(
        f"kept {K} of 8: accuracy {masked:.3f}; masked - pruned "
        f"{float((pruned - expected).abs().max()):.1e}, "
        f"pruned - reloaded {float((reloaded - pruned).abs().max()):.1e}"
    )
