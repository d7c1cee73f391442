"""Tiny gated models in the stock Trainer, and what shows how they train."""

from __future__ import annotations

from hf_models import tiny_model  # isort: skip

import copy

import torch
from hf_data import arguments, padded, sentences, trainer
from transformers import TrainerCallback

from dsp_plugin.gating import (
    AlmostSureGates,
    ConcreteGates,
    ExactSubset,
    ExponentialCooling,
    LagrangianGates,
    RankedGates,
    RelaxedSubset,
    Rounds,
    StraightThroughSubset,
)
from dsp_plugin.gating.methods.almost_sure import thousandfold
from dsp_plugin.gating.methods.concrete import concrete_gates
from dsp_plugin.hf import gate_heads, head_map_of, switchboard_of
from dsp_plugin.hf.heads.training import HeadGatesCallback, pruning_optimizers, training_steps

K, LAMBDA = 3, 0.7
DATA = sentences(16)
COOLING = ExponentialCooling(1.0, 0.05, 6)
METHODS = {
    "relaxed": lambda heads: RelaxedSubset(heads, K, COOLING),
    "exact": lambda heads: ExactSubset(heads, K, COOLING),
    "straight-through": lambda heads: StraightThroughSubset(heads, K),
    "concrete": lambda heads: ConcreteGates(heads, K, LAMBDA),
    "lagrangian": lambda heads: LagrangianGates(heads, K, 4),
    "almost-sure": lambda heads: AlmostSureGates(heads, K, thousandfold(4), Rounds("clip"), 3000.0),
    "ranked": lambda heads: RankedGates(heads, K, torch.arange(8.0)),
}


class QuietConcrete(ConcreteGates):
    """Without noise, so that a gradient can be worked out beside the Trainer's."""

    def sample(self):
        return concrete_gates(self.scores.double(), torch.full((8,), 0.5, dtype=torch.float64)).float()


class Recorder(TrainerCallback):
    """Gradients as the optimizer gets them, and the temperature they were made at."""

    def __init__(self, model):
        self.model, self.gradients, self.temperatures = model, [], []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.gradients.append(
            {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}
        )
        board = switchboard_of(self.model)
        self.temperatures.append(getattr(board.gates, "temperature", None) if board else None)


def gated(method, dropout=True, dtype=torch.float32):
    """A tiny BERT with gates; scores and weights are the same at every call."""
    model = tiny_model("bert", dtype=dtype)
    if not dropout:
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
    torch.manual_seed(11)
    gate_heads(model, (METHODS.get(method) or method)(head_map_of(model)))
    return model


def prepared(model, folder, data=DATA, joint=True, pruning_lr=0.3, recorder=None, more=None, **options):
    """A Trainer for a gated model."""
    args = arguments(folder, **options)
    optimizers = pruning_optimizers(model, args, training_steps(args, len(data)), pruning_lr, joint)
    callbacks = [HeadGatesCallback(model), *([recorder] if recorder else [])]
    return trainer(model, args, data, callbacks, optimizers, **(more or {}))


def scores_of(model):
    return switchboard_of(model).gates.scores


def expected_gradients(model, rows):
    """Return {name: gradient} of the mean loss of all rows plus the penalty, if there is one."""
    model = copy.deepcopy(model).train()
    board = switchboard_of(model)
    (model(**padded(rows)).loss + (board.penalty() if board else 0.0)).backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
