"""The confidence of a Transformers model's heads: how much their attention settles on one position.

c_h is the mean over the queries of some training examples of the largest attention weight (Behnke and
Heafield, EMNLP 2020), under the gates without noise and without dropout. Of grouped queries it is the mean of
the group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...gating.importance.start import SAMPLES, random_numbers_kept
from ..probes.model_runs import evaluating
from .gating import switchboard_of
from .importance import Collate, ExampleRanking, batches_of, on_device, units_with_gates
from .interface import eager_maps

_BARELY_OPEN = 1e-6
"""Of a closed gate, so that a masked model shows its maps, too."""

# kind of a block -> the names under which models return its maps, the first that is there
_MAPS = {
    "encoder-self": ("encoder_attentions", "attentions"),
    "decoder-cross": ("cross_attentions",),
    "decoder-self": ("decoder_attentions", "attentions"),
}


@dataclass(frozen=True)
class HeadConfidence:
    """Measures a gated model's confidences; `HeadGatesCallback(confidence=...)`.

    Several processes share the examples, and all get the same. No random number of the training is used up.

    Attributes:
        model: gated, with eager attention among its implementations.
        dataset, collate, batch_size: see `measured_importance`.
        samples: examples that count, drawn by `seed`.
    """

    model: PreTrainedModel
    dataset: Any
    collate: Collate
    batch_size: int = 32
    seed: int = 1
    samples: int = SAMPLES

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """Measure them, [N] float64.

        Raises:
            ValueError: the model does not return the attention maps of all its heads.
        """
        model, board = self.model, switchboard_of(self.model)
        units = units_with_gates(model)
        device = next(model.parameters()).device
        rank, world = 0, 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        chosen = ExampleRanking(samples=self.samples, seed=self.seed).sample(len(self.dataset))
        sums = torch.zeros(2, board.head_map.num_heads, dtype=torch.float64, device=device)
        gates = board.gates.soft_gates().clamp(min=_BARELY_OPEN)
        with random_numbers_kept(), evaluating(model), board.override(gates), eager_maps(model):
            for batch in batches_of(self.dataset, chosen, self.batch_size)[rank::world]:
                inputs = on_device(self.collate([self.dataset[int(n)] for n in batch]), device)
                output = model(**inputs, output_attentions=True)
                found = [_largest(maps, live) for maps, live in _maps(output, inputs, board.head_map)]
                parts = [
                    torch.stack(
                        [total.view(one.block.num_heads, -1).mean(1), count.expand(one.block.num_heads)]
                    )
                    for one, (total, count) in zip(units, found)
                ]
                sums += torch.cat(parts, 1)
        if world > 1:
            torch.distributed.all_reduce(sums)
        return sums[0] / sums[1].clamp(min=1.0)


def _largest(maps: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the largest weight of every query of maps [B, H, L, S] that is live [B, L]: [H], and count."""
    largest = maps.double().amax(-1) if maps.shape[1] else maps.new_zeros(maps.shape[:3]).double()
    return largest.masked_fill(~live[:, None], 0.0).sum((0, 2)), live.sum().double()


def _maps(output: Any, inputs: Mapping[str, Tensor], head_map: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the maps [B, H, L, S] of every block, and which of its queries are no padding, [B, L]."""
    left = {}
    for kind in dict.fromkeys(block.kind for block in head_map.blocks):
        names = [name for name in _MAPS.get(kind, ()) if output.get(name) is not None]
        found = [maps for maps in output[names[0]] if maps is not None] if names else []
        wanted = sum(block.kind == kind for block in head_map.blocks)
        if len(found) != wanted or any(maps.dim() != 4 for maps in found):
            raise ValueError(
                f"the model returns {len(found)} attention maps of its {wanted} {kind} blocks, and the "
                "confidence of heads is read off them: let closed gates stay closed (reopening clip)"
            )
        left[kind] = iter(found)
    for block in head_map.blocks:
        maps = next(left[block.kind])
        yield maps, _live(inputs, block.kind.startswith("encoder"), maps)


def _live(inputs: Mapping[str, Tensor], encoder: bool, maps: Tensor) -> Tensor:
    """Return which queries of maps [B, H, L, S] are no padding: bool [B, L]."""
    size = (maps.shape[0], maps.shape[2])
    names = ("attention_mask",) if encoder else ("decoder_attention_mask", "labels", "attention_mask")
    for name in names:
        mask = inputs.get(name)
        if isinstance(mask, Tensor) and tuple(mask.shape) == size:
            return mask != -100 if name == "labels" else mask.bool()
    return torch.ones(size, dtype=torch.bool, device=maps.device)
