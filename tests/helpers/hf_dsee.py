"""Models with an update of DSEE's, as if it were trained, and what they put out."""

from __future__ import annotations

import copy

import torch
from hf_models import batch_of, logits, tiny_model

from dsp_plugin.hf.dsee import add_dsee

TOLERANCE = {"llama": 1e-5, "t5": 1e-5}
SMALL = dict(rank=3, alpha=6, num_sparse=5, seed=1)


def with_update(family, **options):
    """A base, and a copy of it with an update as if it were trained."""
    base = tiny_model(family)
    model = copy.deepcopy(base)
    add_dsee(model, **{**SMALL, **options})
    as_trained(model)
    return base, model


@torch.no_grad()
def as_trained(model):
    generator = torch.Generator().manual_seed(4)
    trained = dict(model.named_parameters())
    for name, parameter in trained.items():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            live = 1.0
            if name.endswith("lora_B.default.weight"):
                layer = model.get_submodule(name.removesuffix(".lora_B.default.weight"))
                live = 1.0 if layer.dsee_live is None else layer.dsee_live[:, None]
            parameter.add_(0.2 * noise * live)


def outputs(model):
    with torch.no_grad():
        return logits(model, batch_of(model))


def close(one, other, family="bert"):
    torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE.get(family, 1e-10))
