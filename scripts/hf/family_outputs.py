"""Outputs of a model, with a cache, too, and the largest difference between two models' outputs."""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache


class Wrong(Exception):
    """A fault of an accepted model."""


@torch.no_grad()
def run(model: PreTrainedModel, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Return the outputs of a model, from the same random state every time."""
    torch.manual_seed(0)
    return floats(model(**inputs))


def floats(output: Any) -> list[Tensor]:
    """Return all floating-point tensors in an output, but for attention maps and caches."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() and output.numel() else []
    if isinstance(output, Cache):
        return []
    if isinstance(output, dict):
        return [
            part
            for name, value in output.items()
            if "attentions" not in name and "past" not in name
            for part in floats(value)
        ]
    if isinstance(output, (list, tuple)):
        return [part for value in output for part in floats(value)]
    return []


def largest_difference(found: list[Tensor], wanted: list[Tensor], inputs: dict[str, Tensor]) -> float:
    """Return the largest absolute difference outside of padding; NaN in both is no difference.

    Raises:
        Wrong: the outputs have other shapes.
    """
    if [part.shape for part in found] != [part.shape for part in wanted]:
        raise Wrong(
            f"outputs of other shapes: {[tuple(p.shape) for p in found]} for "
            f"{[tuple(p.shape) for p in wanted]}"
        )
    mask = inputs.get("attention_mask")
    largest = 0.0
    for one, two in zip(found, wanted):
        if mask is not None and one.shape[:2] == mask.shape:
            one, two = one[mask.bool()], two[mask.bool()]
        same = (one == two) | (one.isnan() & two.isnan())
        difference = torch.where(same, 0.0, (one - two).abs().double())
        if difference.numel():
            largest = max(largest, float(difference.nan_to_num(nan=float("inf")).max()))
    return largest


@torch.no_grad()
def cached(model: PreTrainedModel, inputs: dict[str, Tensor], must: bool = False) -> list[Tensor] | None:
    """Return the outputs of two steps of one token behind a cache; None where the model has none.

    Args:
        must: let errors of the model through.
    """
    names = inspect.signature(model.forward).parameters
    side = "decoder_" if "decoder_input_ids" in inputs else ""
    ids = inputs.get(f"{side}input_ids")
    if ids is None or "past_key_values" not in names or ids.shape[1] < 4:
        return None
    try:
        given = {name: value for name, value in inputs.items() if name != f"{side}input_ids"}
        texts = {name: value for name, value in given.items() if value.shape[:2] == ids.shape and not side}
        first = ids.shape[1] - 2
        others = {name: value for name, value in given.items() if name not in texts}
        torch.manual_seed(0)
        output = model(
            **{f"{side}input_ids": ids[:, :first]},
            **{n: v[:, :first] for n, v in texts.items()},
            **others,
            use_cache=True,
        )
        found = []
        for step in range(first, ids.shape[1]):
            if side:
                keep = {n: v for n, v in others.items() if n == "attention_mask"}
                keep["encoder_outputs"] = (output.encoder_last_hidden_state,)
            else:
                keep = {
                    n: v[:, : step + 1] if n == "attention_mask" else v[:, step : step + 1]
                    for n, v in texts.items()
                }
            past = getattr(output, "past_key_values", None)
            if past is None:
                return None
            output = model(
                **{f"{side}input_ids": ids[:, step : step + 1]}, **keep, past_key_values=past, use_cache=True
            )
            found += floats({n: v for n, v in output.items() if n in ("logits", "last_hidden_state")})
        return found
    except Exception:
        if must:
            raise
        return None


def said(where: str, error: Exception) -> str:
    """Return an error's class and text in one line, without the names of temporary folders."""
    text = re.sub(r"\S*/tmp\w+", "FOLDER", " ".join(str(error).split()))
    return f"{where}: {type(error).__name__}: {text[:300]}"
