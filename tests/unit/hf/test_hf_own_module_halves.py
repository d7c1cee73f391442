"""The stock Trainer with half of a method, on a user's own module around one or two encoders: refused by
name, soon.
"""

from __future__ import annotations

from hf_training import COOLING  # first: see hf_models  isort: skip

import copy

import pytest
import torch
from hf_data import arguments
from hf_models import tiny_model
from sentence_pairs import SentencePair, pairs
from torch import nn
from transformers import Trainer

from dsp_plugin.gating import ConcreteGates, RelaxedSubset
from dsp_plugin.gating.handshake.handshake import HandshakeError
from dsp_plugin.hf import gate_heads, head_map_of
from dsp_plugin.hf.heads.training import HeadGatesCallback, pruning_optimizers

UPDATES = 6


class TwoEncoders(nn.Module):
    """Each sentence through an encoder of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = (tiny_model("bert", dtype=torch.float32).bert for _ in range(2))
        self.head = nn.Linear(self.left.config.hidden_size, 2)

    def forward(self, first, second, labels):
        pooled = [
            part(ids).last_hidden_state.mean(1)
            for part, ids in ((self.left, first % 20), (self.right, second % 20))
        ]
        logits = self.head(pooled[0] * pooled[1])
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


KINDS = {"pair": SentencePair, "two encoders": TwoEncoders}
METHODS = {
    "relaxed": lambda heads: RelaxedSubset(heads, 3, COOLING),
    "concrete": lambda heads: ConcreteGates(heads, 3, 0.01),
}
SAID = {"relaxed": "number of updates", "concrete": "penalty was in no loss"}


def gated(kind, method, place=None):
    torch.manual_seed(5)
    model = KINDS[kind]()
    where = model if place is None else getattr(model, place)
    gate_heads(where, METHODS[method](head_map_of(where)))
    return model


def prepared(model, folder, callbacks, optimizers):
    args = arguments(folder, max_steps=UPDATES)
    return Trainer(model, args, train_dataset=pairs(16, 0), callbacks=callbacks, optimizers=optimizers)


def optimizers_of(model, folder, joint):
    return pruning_optimizers(model, arguments(folder, max_steps=UPDATES), UPDATES, 0.3, joint)


@pytest.mark.parametrize("place", [None, "encoder"])
@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_without_the_callback(tmp_path, method, joint, place):
    model = gated("pair", method, place)
    run = prepared(model, tmp_path, [], optimizers_of(model, tmp_path, joint))
    with pytest.raises(HandshakeError, match=SAID[method]):
        run.train()
    assert run.state.global_step < 2


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_two_encoders_without_the_callback(tmp_path, method, joint):
    model = gated("two encoders", method)
    run = prepared(model, tmp_path, [], optimizers_of(model, tmp_path, joint))
    with pytest.raises(HandshakeError, match=SAID[method]):
        run.train()


@pytest.mark.parametrize("kind", KINDS)
def test_the_trainers_own_optimizer(tmp_path, kind):
    """It gives the scores the model's learning rate: with the callback that is a training, without it
    none.
    """
    run = prepared(gated(kind, "relaxed"), tmp_path / "without", [], (None, None))
    with pytest.raises(HandshakeError, match=SAID["relaxed"]):
        run.train()
    model = gated(kind, "relaxed")
    prepared(model, tmp_path / "with", [HeadGatesCallback(model)], (None, None)).train()


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_without_the_scores(tmp_path, kind):
    model = gated(kind, "relaxed")
    weights = [weight for name, weight in model.named_parameters() if not name.startswith("gating.")]
    run = prepared(model, tmp_path, [HeadGatesCallback(model)], (torch.optim.AdamW(weights, lr=1e-3), None))
    with pytest.raises(HandshakeError, match="are in no optimizer"):
        run.train()


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_two_encoders_train_whole_or_by_their_scores_alone(tmp_path, method, joint):
    model = gated("two encoders", method)
    before = copy.deepcopy(model.state_dict())
    prepared(model, tmp_path, [HeadGatesCallback(model)], optimizers_of(model, tmp_path, joint)).train()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    scores = {name for name in before if name.endswith("gates.scores")}
    assert len(scores) == 1 and scores <= moved
    layers = {f"{side}.encoder.layer.1.attention.self.query.weight" for side in ("left", "right")}
    assert (layers | {"head.weight"} <= moved) if joint else moved == scores
