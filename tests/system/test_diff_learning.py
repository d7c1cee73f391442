"""Diff pruning learns: a task in a tenth of a small model's weights, and a penalty that shuts gates."""

from __future__ import annotations

import torch
from diff_models import HEAD, tiny
from torch.nn.functional import cross_entropy

from dsp_plugin.diffs import DiffAdamW, DiffVector, FixMaskAdamW, count_of, project


def batch(number, size=32):
    """Words [size, 4]; the label says whether word 6 is among them (in 46 % of the rows)."""
    generator = torch.Generator().manual_seed(number)
    words = torch.randint(7, (size, 4), generator=generator)
    return words, (words == 6).any(1).long()


def train(model, optimizer, steps):
    model.train()
    for number in range(steps):
        words, labels = batch(number)
        cross_entropy(model(words), labels).backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def accuracy(model):
    words, labels = batch(10_000, 500)
    return (model.eval()(words).argmax(1) == labels).float().mean().item()


def test_three_stages_learn_a_task_in_a_tenth_of_the_weights():
    model = tiny()
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    vector = DiffVector(model, base=base, task_head=HEAD, penalty=1e-3, seed=1)
    train(model, DiffAdamW(vector, lr=0.02, task_head_lr=0.02), 150)
    expected = vector.expected_count() / vector.layout.total
    (diff,) = project(vector.deltas(), [count_of(0.1, vector.layout.total)])
    vector.detach()
    learnt = accuracy(model)

    train(model, FixMaskAdamW(model, diff, base=base, task_head=HEAD, lr=0.02), 100)
    kept = accuracy(model)
    changed = sum(
        int((p != base[name]).sum())
        for name, p in model.named_parameters()
        if not name.startswith("classifier")
    )
    print(f"{learnt:.3f} learnt, {kept:.3f} with a tenth, {expected:.3f} expected to be open")
    assert learnt > 0.95 and kept > 0.9  # the head alone learns 0.78
    assert changed <= 10 and expected < 0.85


def test_a_larger_penalty_opens_fewer_gates():
    opened = []
    for penalty in (0.0, 1e-3, 1e-2):
        vector = DiffVector(model := tiny(), task_head=HEAD, penalty=penalty, seed=1)
        train(model, DiffAdamW(vector, lr=0.02), 80)
        opened.append(vector.expected_count())
    assert opened[0] > opened[1] > opened[2]
