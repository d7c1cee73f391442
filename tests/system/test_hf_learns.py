"""Tiny BERTs that really learn with pruned heads: a task that only attention can solve, and masks against
all others.
"""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import tiny_model  # isort: skip
from hf_data import arguments, padded, trainer
from hf_models import VOCABULARY

from dsp_plugin.gating import ConcreteGates, ExponentialCooling, RelaxedSubset, StraightThroughSubset
from dsp_plugin.hf import gate_heads, head_map_of, switchboard_of
from dsp_plugin.hf.heads.importance import ExampleRanking, gating_of
from dsp_plugin.hf.heads.sweep import prune_by_importance
from dsp_plugin.hf.heads.training import HeadGatesCallback, pruning_optimizers

MARK, LENGTH, N, UPDATES = 3, 8, 8, 200
METHODS = {
    "relaxed": lambda heads, k: RelaxedSubset(heads, k, ExponentialCooling(10.0, 1e-4, 120)),
    "straight-through": StraightThroughSubset,
    "concrete": lambda heads, k: ConcreteGates(heads, k, 0.01),
}


def rows(count: int, seed: int):
    """The first id is always the same; the label says whether the mark is among the others, so the first
    must look at them.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(MARK + 1, VOCABULARY, (count, LENGTH), generator=generator)
    labels = torch.arange(count) % 2
    places = torch.randint(1, LENGTH, (count,), generator=generator)
    ids[torch.arange(count), places] = torch.where(labels == 1, MARK, ids[torch.arange(count), places])
    ids[:, 0] = 2
    return [{"input_ids": row, "labels": int(label)} for row, label in zip(ids, labels)]


TRAIN, HELD_OUT = rows(2000, 1), rows(400, 2)


def small():
    model = tiny_model("bert", dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(0.3)  # the usual spread at the start of a training
    return model


def train(model, folder, updates, joint=True, pruning_lr=0.1, **options):
    args = arguments(folder, max_steps=updates, per_device_train_batch_size=32, learning_rate=3e-3, **options)
    callbacks = [HeadGatesCallback(model)] if switchboard_of(model) else []
    trainer(
        model, args, TRAIN, callbacks, pruning_optimizers(model, args, updates, pruning_lr, joint)
    ).train()
    return model.eval()


@torch.no_grad()
def accuracy(model) -> float:
    batch = padded(HELD_OUT)
    return float((model(**batch).logits.argmax(-1) == batch["labels"]).double().mean())


@pytest.mark.parametrize("method", ["relaxed", "straight-through"])
def test_joint_training_solves_the_task_with_two_heads_of_eight(method, tmp_path):
    model = small()
    torch.manual_seed(1)
    gate_heads(model, METHODS[method](head_map_of(model), 2))
    train(model, tmp_path, UPDATES)
    assert int(switchboard_of(model).gates.keep().sum()) == 2
    assert accuracy(model) > 0.9
    with switchboard_of(model).override(torch.zeros(N)):
        assert accuracy(model) < 0.6  # it cannot be done without heads


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    model = train(small(), tmp_path_factory.mktemp("finetuned"), UPDATES)
    assert accuracy(model) > 0.9
    return model


@pytest.fixture(scope="module")
def alone(finetuned):
    """Loss of the trained model with each of its heads as the only one: [N]."""
    found, batch = [], padded(HELD_OUT)
    with torch.no_grad(), gating_of(finetuned) as board:
        for mask in torch.eye(N):
            with board.override(mask):
                found.append(float(finetuned(**batch).loss))
    return torch.tensor(found)


GOOD = 0.1  # a loss below it; the good heads of this model have 0.01 and less alone, the others above 1


# straight-through sees only what is next to its mask
@pytest.mark.parametrize("method", ["relaxed", "concrete"])
def test_pipelined_scores_turn_from_useless_heads_to_a_good_one(method, finetuned, alone, tmp_path):
    """The scores start in favour of the heads that are of no use."""
    assert (alone > 1.0).any() and (alone < GOOD).any()
    model = copy.deepcopy(finetuned)
    gates = METHODS[method](head_map_of(model), 1)
    with torch.no_grad():
        gates.scores.copy_(0.3 * (alone > GOOD))
    assert float(alone[gates.keep()]) > GOOD
    gate_heads(model, gates)
    torch.manual_seed(2)
    train(model, tmp_path, 120, joint=False)
    assert float(alone[gates.keep()]) < GOOD


def test_exact_importance_keeps_the_best_head_of_a_trained_model(finetuned, alone, tmp_path):
    steps = prune_by_importance(
        finetuned,
        TRAIN[:300],
        padded,
        tmp_path,
        1,
        lambda subset: {},
        exact=True,
        subsets=[],
        budgets=[1],
        ranking=ExampleRanking(batch_size=100),
        say=lambda line: None,
        progress=False,
    )
    assert steps[-1]["keep"].index(True) in alone.argsort()[:2].tolist()
