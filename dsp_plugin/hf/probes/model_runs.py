"""How a model is run to be looked at: the same every time, and on behind a cache."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def with_cache(model: nn.Module, inputs: dict[str, Any]) -> Iterator[Any]:
    """Run all tokens but the last with a cache that is made on the way, then the last one; return nothing
    where there is no cache.
    """
    parameters = inspect.signature(model.forward).parameters
    two = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    ids = inputs.get("decoder_input_ids" if two else "input_ids")
    if (
        not {"past_key_values", "use_cache"} <= set(parameters)
        or not isinstance(ids, Tensor)
        or ids.dim() != 2
    ):
        return
    if ids.shape[1] < 2:
        return

    def part(start: int | None, end: int | None) -> dict[str, Any]:
        chosen = dict(inputs)
        for name, value in inputs.items():
            own = (
                isinstance(value, Tensor)
                and value.shape[:2] == ids.shape
                and (not two or name.startswith("decoder_"))
            )
            if name.endswith("attention_mask") and own:
                chosen[name] = value[:, :end]
            elif own:
                chosen[name] = value[:, start:end]
            elif not two and isinstance(value, Tensor) and not name.startswith("encoder_"):
                # pixels are for the first pass, and would need their places among the tokens
                del chosen[name]
        return chosen

    first = model(**part(None, -1), use_cache=True)
    cache = first.get("past_key_values") if isinstance(first, Mapping) else None
    if cache is None:
        return
    yield first
    yield model(**part(-1, None), past_key_values=cache, use_cache=True)


@contextmanager
def same_noise(root: nn.Module) -> Iterator[None]:
    """Draw every random number in `eval()` from the same state; the process has its own back afterwards."""
    devices = sorted({weight.device.index for weight in root.parameters() if weight.device.type == "cuda"})
    with torch.random.fork_rng(devices):
        # not torch.manual_seed, which reaches devices that are not restored
        torch.default_generator.manual_seed(0)
        for index in devices:
            torch.cuda.default_generators[index].manual_seed(0)
        for module in root.modules():
            module.training = False  # not eval(), which a class may do other things in
        yield


@contextmanager
def aside(model: nn.Module) -> Iterator[None]:
    """Let a trial run happen in `eval()` and without gradients, and put random states and modes back
    afterwards.
    """
    modes = [(part, part.training) for part in model.modules()]
    devices = {weight.device for weight in model.parameters() if weight.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
            model.eval()
            yield
    finally:
        for part, training in modes:
            part.training = training
