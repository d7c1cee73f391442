"""Two forward passes before one backward pass, as of sentence pairs, have the same gradients under
checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hf_models import batch_of, logits, tiny_model
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dsp_plugin.gating import RelaxedSubset, constant_temperature
from dsp_plugin.hf import gate_heads, head_map_of


def checkpointed(function: Callable[..., Any], reentrant: bool) -> Callable[..., Any]:
    def run(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        return checkpoint(lambda hidden: function(hidden, *args, **kwargs), hidden, use_reentrant=reentrant)

    return run


def gradients(family: str, reentrant: bool | None) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = tiny_model(family)
    heads = head_map_of(model)
    gate_heads(model, RelaxedSubset(heads, heads.num_heads // 2, constant_temperature(1.0)))
    model.double().train()
    model.enable_input_require_grads()  # a reentrant checkpoint needs it
    # which knows no checkpoints: somebody's own, around shared layers
    if reentrant is not None and family == "albert":
        for group in model.albert.encoder.albert_layer_groups:
            group.forward = checkpointed(group.forward, reentrant)
    elif reentrant is not None:
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
    batch = batch_of(model)
    first = logits(model, batch)
    with torch.no_grad():
        logits(model, batch)
    model.eval()
    logits(model, batch)
    model.train()
    second = logits(model, batch)
    (first * second.sin()).sum().backward()
    third = logits(model, batch)
    third.square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", ["bert", "gpt2", "albert", "bart", "t5", "opt", "llama", "deberta-v2"])
def test_two_passes_before_a_backward_pass(family, reentrant):
    plain, recomputed = gradients(family, None), gradients(family, reentrant)
    assert plain.keys() == recomputed.keys() and any(name.endswith("scores") for name in plain)
    for name, gradient in plain.items():
        torch.testing.assert_close(
            recomputed[name], gradient, rtol=1e-6, atol=1e-9, msg=lambda text: f"{name}: {text}"
        )
