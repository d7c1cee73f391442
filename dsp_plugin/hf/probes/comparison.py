"""Comparison of two models' outputs on the same batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...records.certificate import Certificate, write_certificate
from .model_runs import evaluating
from .random_inputs import random_inputs

__all__ = ["Certificate", "OUTPUTS", "compare", "random_batches", "takes_text", "write_certificate"]

OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state")
# what the tokens of a batch are counted by, the decoder's before those it looks at
_TOKENS = (
    ("decoder_attention_mask", "decoder_input_ids", "decoder_inputs_embeds"),
    ("attention_mask", "input_ids", "inputs_embeds"),
)
_NO_OUTPUTS = ("loss", "attentions", "hidden_states", "past_key_values")  # also as the end of a name


@torch.no_grad()
def compare(
    first: nn.Module,
    second: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    tolerance: float = 1e-5,
    data: str = "",
) -> Certificate:
    """Run two models on the same batches, in `eval()` mode, and take the largest difference of their outputs.

    All tensors of real numbers that both give are compared, but for the loss. At a place that the attention
    mask calls padding, where an output has places, nothing is compared.

    Args:
        first, second: Transformers models, or modules of any kind that give a dict, a tensor or a tuple of
            tensors.
        batches: the models' keyword arguments: input_ids [B, L] with attention_mask [B, L] where there is
            padding, or inputs_embeds, pixel_values, input_features ...
        tolerance: largest absolute difference that counts as equal.
        data: description of the batches ("real text", "random ids").

    Returns:
        the certificate, with the largest absolute difference and the largest output.

    Raises:
        ValueError: no batch, or the models have no output in common, or one of other shapes.
    """
    if not batches:
        raise ValueError("there is nothing to compare on: no batch was given")
    difference = largest = 0.0
    tokens = sequences = 0
    names: list[str] = []
    with evaluating(first, second):
        for batch in batches:
            one, two = _outputs(first(**batch)), _outputs(second(**batch))
            names = [name for name in one if name in two]
            if not names:
                raise ValueError(
                    f"the two models have none of the outputs {', '.join(OUTPUTS)} in common, nor another: "
                    f"{type(first).__name__} "
                    f"gives {', '.join(one) or 'none'}, {type(second).__name__} {', '.join(two) or 'none'}"
                )
            for name in names:
                if one[name].shape != two[name].shape:
                    shapes = " and ".join(str(list(given[name].shape)) for given in (one, two))
                    raise ValueError(
                        f"the two models' {name} cannot be compared: they are of the shapes {shapes}"
                    )
                mask = _mask(name, one[name], batch)
                left, right = (_compared(given[name], mask) for given in (one, two))
                if left.numel():
                    difference = _larger(difference, (left - right.to(left.device)).abs().max())
                    largest = _larger(largest, left.abs().max())
            count, rows = _count(batch, one[names[0]])
            tokens, sequences = tokens + count, sequences + rows
    dtype = str(next(first.parameters()).dtype).removeprefix("torch.")
    return Certificate(difference, largest, tolerance, tokens, sequences, names, dtype, data)


def random_batches(
    model: PreTrainedModel, count: int = 2, size: int = 3, length: int = 12, seed: int = 1
) -> Iterator[dict[str, Tensor]]:
    """Make batches of random inputs, for models whose weights are random.

    Token ids, the sequences of a batch each padded to one length, for a model that takes text; else what its
    configuration asks for (see `random_inputs`).

    Args:
        count: batches.
        size: sequences a batch.
        length: tokens of the longest sequence; the others get shorter one by one.
        seed: the same seed gives the same batches.

    Yields:
        the model's keyword arguments: input_ids and attention_mask [B, L], for one.

    Raises:
        ValueError: see `random_inputs`.
    """
    if not takes_text(model):
        yield from (random_inputs(model, size, length, seed + number) for number in range(count))
        return
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    for _ in range(count):
        ids = torch.randint(0, model.config.vocab_size, (size, length), generator=generator).to(device)
        lengths = length - torch.arange(size, device=device) % max(1, length // 2)
        mask = (torch.arange(length, device=device) < lengths[:, None]).long()  # [L] < [B, 1] -> [B, L]
        batch = {"input_ids": ids, "attention_mask": mask}
        if model.config.is_encoder_decoder:
            other = torch.randint(0, model.config.vocab_size, (size, length), generator=generator)
            batch["decoder_input_ids"] = other.to(device)
        yield batch


def takes_text(model: nn.Module) -> bool:
    """Return whether the model reads token ids and needs nothing beside them."""
    size = getattr(model.config, "vocab_size", None) if isinstance(model, PreTrainedModel) else None
    return isinstance(size, int) and model.main_input_name == "input_ids"


def _outputs(given: Any) -> dict[str, Tensor]:
    """Return the tensors of real numbers by name, those of `OUTPUTS` first."""
    if isinstance(given, Tensor):
        given = {"output": given}
    elif not isinstance(given, Mapping):
        parts = given if isinstance(given, (tuple, list)) else ()
        given = {f"output {number}": value for number, value in enumerate(parts)}
    names = sorted(given, key=lambda name: name not in OUTPUTS)  # stable
    return {name: given[name] for name in names if _is_output(name, given[name])}


def _is_output(name: str, value: Any) -> bool:
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
        return False
    return not any(name == other or name.endswith(f"_{other}") for other in _NO_OUTPUTS)


def _mask(name: str, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor | None:
    """Return bool [B, L], the places of an output [B, L, ...] that are no padding; None where all count."""
    sides = ("decoder_attention_mask", "attention_mask")
    if name.startswith("encoder_"):
        sides = sides[1:]
    elif "decoder_input_ids" in batch:
        sides = sides[:1]
    for side in sides:
        mask = batch.get(side)
        if isinstance(mask, Tensor) and mask.dim() > 1 and output.shape[: mask.dim()] == mask.shape:
            return mask.bool()
    return None


def _compared(output: Tensor, mask: Tensor | None) -> Tensor:
    """Take the outputs of real tokens; an output a sequence (a class) is taken whole."""
    output = output.to(torch.promote_types(output.dtype, torch.float32))
    return output if mask is None else output[mask.to(output.device)]


def _count(batch: Mapping[str, Tensor], output: Tensor) -> tuple[int, int]:
    """Return (tokens, sequences) of a batch; where there are no tokens, the places that its output has."""
    for mask, ids, embeddings in _TOKENS:
        if ids in batch or embeddings in batch:
            places = batch[ids].shape if ids in batch else batch[embeddings].shape[:-1]
            real = batch.get(mask)
            return (places.numel() if real is None else int(real.bool().sum())), places[0]
    return output.shape[: 2 if output.dim() > 2 else 1].numel(), output.shape[0] if output.dim() else 1


def _larger(current: float, value: Tensor) -> float:
    value = float(value)
    return value if value != value or value > current else current  # NaN stays
