"""The heads of a translation's models, read from those that ran: options may change what checkpoints say."""

from __future__ import annotations

from typing import Optional

import torch
from fairseq.modules import MultiheadAttention
from torch import nn

from ...gating import HeadMap
from ...gating.head_map import in_order
from ...surgery.record import compose, mask_of_record
from ..heads.checkpoint_heads import CheckpointHeads, original_head_map, parameters_of_head
from ..heads.feed_forward import GatedLinear
from ..heads.gated_transformer import block_of


def heads_of_model(model: nn.Module) -> CheckpointHeads:
    """Return a model's heads, and those it deploys in evaluation mode; of stock fairseq's transformer all.

    Raises:
        ValueError: it has no attention blocks of an encoder-decoder transformer.
    """
    kinds = (MultiheadAttention, GatedLinear)
    blocks = [block_of(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    if not blocks:
        raise ValueError("the model has no attention blocks: it is not an encoder-decoder transformer")
    head_map = HeadMap(in_order(blocks, lambda block: block.kind))
    gating = getattr(model, "gating", None)
    if gating is None:
        return CheckpointHeads(head_map, torch.ones(head_map.num_heads, dtype=torch.bool), None)
    keep = gating.gates.keep().cpu()
    return CheckpointHeads(head_map, keep, int(keep.sum()), type(model).method)


def original_heads_of(model: nn.Module, heads: CheckpointHeads) -> CheckpointHeads:
    """Return the same heads among those of the model before any removal, for records and pictures."""
    record: Optional[dict[str, list[int]]] = getattr(model, "kept_heads", None)
    if not record:
        return heads
    original = original_head_map(heads.head_map, _sizes(model))
    deployed = compose(heads.head_map, heads.keep, record)
    return CheckpointHeads(original, mask_of_record(deployed, original), heads.budget, heads.method)


def _sizes(model: nn.Module) -> dict[str, int]:
    """Return the sizes that a model's heads and groups of neurons have before any removal, by option."""
    return {
        f"{side}_{size}": getattr(model.encoder.cfg, f"{side}_{size}")
        for side in ("encoder", "decoder")
        for size in ("embed_dim", "attention_heads", "ffn_embed_dim")
    }


def parameters_of_model(
    model: nn.Module, heads: CheckpointHeads, original: CheckpointHeads
) -> dict[str, int]:
    """Count a model's parameters, scores aside, with all heads it once had and with the deployed alone."""
    sizes = _sizes(model)

    def of_heads(among: CheckpointHeads, which) -> int:
        each = [
            parameters_of_head(block, sizes)
            for block in among.head_map.blocks
            for _ in range(block.num_heads)
        ]
        return sum(size for size, counts in zip(each, which) if counts)

    # a tensor that is shared comes once
    now = sum(weights.numel() for name, weights in model.named_parameters() if not name.startswith("gating."))
    without_heads = now - of_heads(heads, [True] * heads.head_map.num_heads)
    return {
        "before": without_heads + of_heads(original, [True] * original.head_map.num_heads),
        "after": without_heads + of_heads(original, original.keep),
    }
