"""The stock Trainer on a user's own module around Transformers models: outer weights, frozen weights, and
the mean loss.
"""

from __future__ import annotations

import hf_models  # first: see there  isort: skip

import copy

import pytest
import torch
from hf_data import arguments, trainer
from hf_models import tiny_model
from hf_training import COOLING, Recorder
from torch import nn

from dsp_plugin.gating import ConcreteGates, RelaxedSubset, StraightThroughSubset
from dsp_plugin.hf import gate_heads, head_map_of, switchboard_of
from dsp_plugin.hf.heads.training import HeadGatesCallback, pruning_optimizers
from dsp_plugin.hf.trainer.mean_loss import declare_mean_loss, takes_mean

METHODS = {
    "relaxed": lambda heads: RelaxedSubset(heads, 3, COOLING),
    "straight-through": lambda heads: StraightThroughSubset(heads, 3),
    "concrete": lambda heads: ConcreteGates(heads, 3, 0.01),
}


class Pair(nn.Module):
    """Two sentences through one encoder, mean pooling, a head of its own; `**kwargs` that mean nothing."""

    def __init__(self):
        super().__init__()
        self.encoder = tiny_model("bert", dtype=torch.float32).bert
        torch.manual_seed(7)
        self.head = nn.Linear(2 * self.encoder.config.hidden_size, 2)

    def forward(self, input_ids, other_ids, labels=None, **kwargs):
        pooled = [self.encoder(ids).last_hidden_state.mean(1) for ids in (input_ids, other_ids)]
        logits = self.head(torch.cat(pooled, -1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def examples(count):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, hf_models.VOCABULARY, (count, 2, 6), generator=generator)
    return [{"input_ids": one, "other_ids": other, "labels": int(one[0] > other[0])} for one, other in ids]


def stacked(rows):
    batch = {name: torch.stack([row[name] for row in rows]) for name in ("input_ids", "other_ids")}
    return {**batch, "labels": torch.tensor([row["labels"] for row in rows])}


def prepared(
    folder, method="relaxed", joint=True, inner=False, of=None, dropout=True, recorder=False, **options
):
    """A Trainer of a Pair; `inner`: the gates hang at the encoder. `of`: what the optimizer is made of."""
    model = Pair()
    if not dropout:
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
    place = model.encoder if inner else model
    torch.manual_seed(11)
    gate_heads(place, METHODS[method](head_map_of(place)))
    args = arguments(folder, **{"max_steps": 3, **options})
    optimizers = pruning_optimizers(of(model) if of else model, args, 3, 0.3, joint)
    callbacks = [HeadGatesCallback(model), *([Recorder(model)] if recorder else [])]
    run = trainer(model, args, examples(16), callbacks, optimizers)
    run.data_collator = stacked
    return run


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_outer_weights_learn_or_are_frozen_with_the_others(tmp_path, method, joint, inner):
    run = prepared(tmp_path, method, joint, inner)
    model = run.model
    before = copy.deepcopy(model.state_dict())
    run.train()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    scores = {name for name in before if name.endswith("gates.scores")}
    assert len(scores) == 1 and scores <= moved
    if joint:
        assert {"head.weight", "head.bias", "encoder.encoder.layer.1.attention.self.query.weight"} <= moved
    else:
        assert moved == scores
        assert [name for name, weight in model.named_parameters() if weight.requires_grad] == list(scores)


@pytest.mark.parametrize("joint", [True, False])
def test_an_optimizer_of_a_part_is_refused(tmp_path, joint):
    with pytest.raises(ValueError, match="were put on a larger model"):
        prepared(tmp_path, joint=joint, of=lambda model: model.encoder)
    run = prepared(tmp_path, joint=joint, inner=True, of=lambda model: model.encoder)
    with pytest.raises(
        ValueError, match=r"2 parameters of the model.*\(head.weight, head.bias\): give pruning_optimizers"
    ):
        run.train()


def test_the_gradient_is_that_of_the_mean_whatever_the_accumulation(tmp_path):
    found = []
    for batch, parts in ((8, 1), (4, 2), (2, 4)):
        run = prepared(
            tmp_path,
            "straight-through",
            dropout=False,
            recorder=True,
            max_steps=1,
            max_grad_norm=0.0,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=parts,
        )
        run.train()
        found.append(next(c for c in run.callback_handler.callbacks if isinstance(c, Recorder)).gradients[0])
    for other in found[1:]:
        for name in ("head.weight", "encoder.encoder.layer.0.output.dense.weight"):
            torch.testing.assert_close(other[name], found[0][name], rtol=1e-4, atol=1e-7)


# ---- whose loss is a mean


class Plain(nn.Module):
    def forward(self, x):
        return {"loss": x.mean()}


class Counts(nn.Module):
    def forward(self, x, num_items_in_batch=None, **kwargs):
        return {"loss": x.sum() / num_items_in_batch}


class HandsOn(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.model = tiny_model(kind, dtype=torch.float32)

    def forward(self, **kwargs):
        return self.model(**kwargs)


class Says(nn.Module):
    accepts_loss_kwargs = True

    def forward(self, x, **kwargs):
        return {"loss": x.mean()}


class Peft(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = tiny_model("bert", dtype=torch.float32)

    def get_base_model(self):
        return self.base

    def forward(self, *args, **kwargs):
        return self.base(*args, **kwargs)


@pytest.mark.parametrize(
    "make, mean",
    [
        (Plain, True),
        (Pair, True),
        (Counts, False),
        (Says, False),
        (lambda: HandsOn("bert"), True),
        (lambda: HandsOn("gpt2"), False),
    ],
    ids=["plain", "own head", "counts items", "says so", "hands on to a mean", "hands on to a count"],
)
def test_a_mean_is_told_from_a_loss_that_knows_the_count(make, mean):
    model = make()
    assert takes_mean(model) is mean
    declare_mean_loss(model)
    assert getattr(model, "accepts_loss_kwargs", None) is (
        False if mean else True if isinstance(model, Says) else None
    )


def test_an_adapters_model_is_looked_through():
    model = Peft()
    declare_mean_loss(model)
    assert model.base.accepts_loss_kwargs is False


def test_the_switchboard_is_found_at_an_inner_model():
    model = Pair()
    board = gate_heads(model.encoder, METHODS["relaxed"](head_map_of(model.encoder)))
    assert switchboard_of(model) is board
