"""A tiny BERT whose diff the stock Trainer trains."""

from __future__ import annotations

from hf_models import tiny_model  # isort: skip

import torch
from hf_data import arguments, sentences, trainer

from dsp_plugin.diffs import DiffVector
from dsp_plugin.hf.diffs.training import DiffCallback, diff_optimizers, fixmask_optimizers

DATA = sentences(24)
HEAD = ["classifier"]
QUERY = "bert.encoder.layer.1.attention.self.query.weight"


def base_model():
    return tiny_model("bert", dtype=torch.float32)


def without_dropout(model):
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return model


def in_diff(folder, base=None, model=None, data=DATA, more=None, alpha_init=1.0, penalty=1e-3, **options):
    """(Trainer, DiffAdamW) of a diff on the tiny model."""
    model = model or base_model()
    args = arguments(folder, **{"learning_rate": 1e-2, **options})
    vector = DiffVector(
        model, base=base, task_head=HEAD, alpha_init=alpha_init, penalty=penalty, seed=args.seed
    )
    optimizers = diff_optimizers(vector, args)
    return trainer(model, args, data, [DiffCallback(optimizers[0])], optimizers, **(more or {})), optimizers[
        0
    ]


def with_mask(folder, diff, more=None, **options):
    """(Trainer, FixMaskAdamW) on the tiny model."""
    model = base_model()
    args = arguments(folder, **{"learning_rate": 1e-2, **options})
    optimizers = fixmask_optimizers(model, args, diff, task_head=HEAD)
    return trainer(model, args, DATA, [DiffCallback(optimizers[0])], optimizers, **(more or {})), optimizers[
        0
    ]


def state_of(optimizer) -> dict:
    """Copies of everything a DiffAdamW holds."""
    vector = optimizer.vector
    moments = {f"moments.{name}": value for name, value in optimizer._moments._asdict().items()}
    flat = {name: getattr(vector, name) for name in ("w", "alpha", "group_alpha")}
    return {name: tensor.clone() for name, tensor in {**flat, **moments, **vector.task_head}.items()}
