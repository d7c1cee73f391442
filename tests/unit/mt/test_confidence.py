"""Confidences of a fairseq model's heads, against attention worked out by hand, sentence by sentence."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("fairseq")

from fairseq_models import TINY, TINY_HEADS, build

from dsp_plugin.mt.heads.confidence import confidences
from dsp_plugin.mt.heads.importance import SentenceRanking

PASS = {"closing": "pass", "num_of_heads": 6, "pruning_lr": 0.2, "joint_pruning": True, "round_updates": 4}


def by_hand(model, dataset, numbers) -> torch.Tensor:
    """The mean largest weight of every head, [N]: from projected queries and keys of one sentence a pass."""
    board, seen, sums, counts = model.gating, {}, [], []
    blocks = [(block, model.get_submodule(block.name)) for block in board.head_map.blocks]
    hooks = [
        getattr(module, f"{letter}_proj").register_forward_hook(
            lambda _, __, out, key=(block.name, letter): seen.__setitem__(key, out.detach().double())
        )
        for block, module in blocks
        for letter in "qk"
    ]
    for number in numbers:
        with torch.no_grad(), board.override(board.gates.soft_gates()):
            model(**dataset.collater([dataset[number]])["net_input"])
        parts, queries = [], []
        for block, module in blocks:
            size = (module.num_heads, module.head_dim)
            q, k = (
                seen[block.name, letter].squeeze(1).unflatten(-1, size).transpose(0, 1) for letter in "qk"
            )
            logits = q @ k.transpose(1, 2) / module.head_dim**0.5  # [h, T, S]
            if block.kind == "decoder-self":
                logits = logits.masked_fill(torch.ones_like(logits).triu(1).bool(), -torch.inf)
            largest = logits.softmax(-1).amax(-1)
            parts.append(largest.sum(1))
            queries += [largest.shape[1]] * module.num_heads
        sums.append(torch.cat(parts))
        counts.append(torch.tensor(queries))
    for hook in hooks:
        hook.remove()
    return torch.stack(sums).sum(0) / torch.stack(counts).sum(0)


def test_they_are_the_mean_largest_weights_whatever_the_padding(tiny_data):
    task, model = build(tiny_data, *TINY, arch="voita_transformer", task="voita_translation", **PASS)
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    with torch.no_grad():  # some heads closed, some half open, and queries that do not look everywhere alike
        model.gating.gates.scores.copy_(torch.linspace(-6, 6, TINY_HEADS)[torch.randperm(TINY_HEADS)])
        for name, parameter in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                parameter.mul_(4.0)
    model.train()
    state = torch.get_rng_state()
    ranking = SentenceRanking(samples=7, seed=3, max_tokens=None, batch_size=4)
    found = confidences(model, dataset, task, ranking)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    model.eval()
    expected = by_hand(model, dataset, ranking.sample(len(dataset)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert float(expected.max() - expected.min()) > 0.1
    assert all(getattr(module, "show_weights", None) is None for module in model.modules())
