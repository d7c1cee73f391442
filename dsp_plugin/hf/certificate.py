"""Two models beside each other on the same batches: how far apart their outputs are."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..reports.certificate import Certificate, write_certificate

__all__ = ["Certificate", "OUTPUTS", "compare", "random_batches", "write_certificate"]

OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state")


@torch.no_grad()
def compare(
    first: nn.Module, second: nn.Module, batches: Sequence[Mapping[str, Tensor]], tolerance: float = 1e-5, data: str = ""
) -> Certificate:
    """Run two models on the same batches, in `eval()` mode, and take the largest difference of their outputs.

    Args:
        batches: the models' keyword arguments, input_ids [B, L] with attention_mask [B, L] where there is padding.
        tolerance: largest absolute difference that counts as equal.
        data: what the batches are ("real text", "random ids").

    Raises:
        ValueError: no batch, or the models have no output in common.
    """
    if not batches:
        raise ValueError("there is nothing to compare on: no batch was given")
    modes = first.training, second.training
    first.eval(), second.eval()
    difference = largest = 0.0
    tokens = sequences = 0
    names: List[str] = []
    for batch in batches:
        one, two = first(**batch), second(**batch)
        names = [name for name in OUTPUTS if one.get(name) is not None and two.get(name) is not None]
        if not names:
            raise ValueError(f"the two models have none of the outputs {', '.join(OUTPUTS)} in common")
        mask = _mask(batch)
        for name in names:
            left, right = _compared(one[name], mask), _compared(two[name], mask)
            difference = _larger(difference, (left - right).abs().max())
            largest = _larger(largest, left.abs().max())
        tokens, sequences = tokens + int(mask.sum()), sequences + mask.shape[0]
    first.train(modes[0]), second.train(modes[1])
    dtype = str(next(first.parameters()).dtype).removeprefix("torch.")
    return Certificate(difference, largest, tolerance, tokens, sequences, names, dtype, data)


def random_batches(
    model: PreTrainedModel, count: int = 2, size: int = 3, length: int = 12, seed: int = 1
) -> Iterator[Dict[str, Tensor]]:
    """Batches of random token ids, the sequences of each padded to one length: for models whose weights are random.

    Args:
        count: batches.
        size: sequences a batch.
        length: of the longest; the others get shorter one by one.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    for _ in range(count):
        ids = torch.randint(0, model.config.vocab_size, (size, length), generator=generator).to(device)
        lengths = length - torch.arange(size, device=device) % max(1, length // 2)
        mask = (torch.arange(length, device=device) < lengths[:, None]).long()
        batch = {"input_ids": ids, "attention_mask": mask}
        if model.config.is_encoder_decoder:
            batch["decoder_input_ids"] = torch.randint(0, model.config.vocab_size, (size, length), generator=generator).to(device)
        yield batch


def _mask(batch: Mapping[str, Tensor]) -> Tensor:
    """Bool [B, L]: the tokens whose outputs count, the decoder's where there is one."""
    side = "decoder_" if "decoder_input_ids" in batch else ""
    mask: Optional[Any] = batch.get(f"{side}attention_mask")
    return torch.ones_like(batch[f"{side}input_ids"]).bool() if mask is None else mask.bool()


def _compared(output: Tensor, mask: Tensor) -> Tensor:
    """The outputs of real tokens; an output a sequence (a class) is taken whole."""
    output = output.to(torch.promote_types(output.dtype, torch.float32))
    return output[mask] if output.shape[:2] == mask.shape else output


def _larger(current: float, value: Tensor) -> float:
    value = float(value)
    return value if value != value or value > current else current  # NaN stays
