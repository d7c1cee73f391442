"""Runs of a model in evaluation mode: with the same noise every time, on behind a cache, on trial."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def with_cache(model: nn.Module, inputs: dict[str, Any]) -> Iterator[Any]:
    """Run all tokens but the last with a cache that is made on the way, then the last one.

    Args:
        inputs: keyword arguments of the model, with ids [B, L].

    Yields:
        the outputs of both runs; nothing where the model has no cache.
    """
    parameters = inspect.signature(model.forward).parameters
    has_encoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    ids = inputs.get("decoder_input_ids" if has_encoder else "input_ids")
    if not {"past_key_values", "use_cache"} <= set(parameters):
        return
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.shape[1] < 2:
        return

    def part(start: int | None, end: int | None) -> dict[str, Any]:
        chosen = dict(inputs)
        for name, value in inputs.items():
            if not isinstance(value, Tensor):
                continue
            if value.shape[:2] == ids.shape and (not has_encoder or name.startswith("decoder_")):
                chosen[name] = value[:, :end] if name.endswith("attention_mask") else value[:, start:end]
            elif not has_encoder and not name.startswith("encoder_"):
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
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put models into `eval()` mode, and every part of theirs back into its own mode afterwards."""
    modes = [(part, part.training) for model in models for part in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def trial_run(model: nn.Module) -> Iterator[None]:
    """Let a model run in `eval()` mode without gradients; random states and modes are put back afterwards."""
    devices = {weight.device for weight in model.parameters() if weight.device.type == "cuda"}
    with evaluating(model), torch.random.fork_rng(devices=list(devices)), torch.no_grad():
        yield
