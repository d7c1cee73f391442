"""fairseq's transformer with gates on heads and on groups of neurons, through fairseq's own build hooks.

What is said of heads here holds for groups of neurons, too, where a model has them (`--neurons`): a block is
an attention module, or the second linear of a feed-forward layer.
"""

import json
from contextlib import nullcontext
from functools import partial
from typing import Any, Optional, Union

import torch
from fairseq.distributed import fsdp_wrap
from fairseq.models.transformer import TransformerDecoderBase, TransformerEncoderBase
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase, TransformerEncoderLayerBase
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from ...gating import AttentionBlock, HeadMap, Switchboard
from ...gating.head_map import FEED_FORWARD, in_order
from ...options.errors import OptionError
from .attention import GatedMultiheadAttention
from .feed_forward import NEURONS, GatedFeedForward, GatedLinear

Block = Union[GatedMultiheadAttention, GatedLinear]

SCORES = "gating.gates.scores"
"""The name of the scores among a checkpoint's tensors."""


class GatedEncoderLayer(GatedFeedForward, TransformerEncoderLayerBase):
    def build_self_attention(self, embed_dim, cfg):
        return GatedMultiheadAttention(
            embed_dim,
            cfg.encoder.attention_heads,
            dropout=cfg.attention_dropout,
            self_attention=True,
            q_noise=self.quant_noise,
            qn_block_size=self.quant_noise_block_size,
            xformers_att_config=cfg.encoder.xformers_att_config,
        )


class GatedDecoderLayer(GatedFeedForward, TransformerDecoderLayerBase):
    def build_self_attention(self, embed_dim, cfg, add_bias_kv=False, add_zero_attn=False):
        return GatedMultiheadAttention(
            embed_dim,
            cfg.decoder.attention_heads,
            dropout=cfg.attention_dropout,
            add_bias_kv=add_bias_kv,
            add_zero_attn=add_zero_attn,
            self_attention=not cfg.cross_self_attention,
            q_noise=self.quant_noise,
            qn_block_size=self.quant_noise_block_size,
            xformers_att_config=cfg.decoder.xformers_att_config,
        )

    def build_encoder_attention(self, embed_dim, cfg):
        return GatedMultiheadAttention(
            embed_dim,
            cfg.decoder.attention_heads,
            kdim=cfg.encoder.embed_dim,
            vdim=cfg.encoder.embed_dim,
            dropout=cfg.attention_dropout,
            encoder_decoder_attention=True,
            q_noise=self.quant_noise,
            qn_block_size=self.quant_noise_block_size,
            xformers_att_config=cfg.encoder.xformers_att_config,
        )


def _wrapped(layer: nn.Module, cfg) -> nn.Module:
    """Do what fairseq does to every layer it builds: activation checkpointing and FSDP, if asked for."""
    if cfg.checkpoint_activations:
        # under fairseq's own name for it, so that its `unwrap_checkpoint` finds it
        layer.precheckpoint_forward = layer.forward
        layer.forward = partial(_recomputed, layer.precheckpoint_forward, cfg.offload_activations)
    return fsdp_wrap(layer, min_num_params=0 if cfg.checkpoint_activations else cfg.min_params_to_wrap)


def _recomputed(forward, offload_to_cpu: bool, *args, **kwargs):
    """Recompute activations by torch. fairseq's own kind runs one backward a layer, each through the gates
    that all layers share, and none at all where a layer's inputs need no gradient (pipelined pruning)."""
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    with save_on_cpu() if offload_to_cpu else nullcontext():
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)


class GatedEncoder(TransformerEncoderBase):
    """Stock, but the hypotheses of a beam search share the one encoder output of their sentence."""

    def reorder_encoder_out(self, encoder_out, new_order):
        """Reorder as stock, where `new_order` is anything but a beam search's.

        A beam search first asks for every sentence `beam` times. Stock makes these copies, and copies all of
        them again at every step. Gated attention does without (it takes B queries and B / beam keys), so here
        nothing is copied until a sentence is finished.
        """
        sentences = encoder_out["encoder_out"][0].size(1)
        beam = encoder_out.get("beam")
        if beam is None:
            beam = new_order.numel() // sentences
            spread = torch.arange(sentences, device=new_order.device).repeat_interleave(beam)
            if beam < 2 or self.cfg.cross_self_attention or not torch.equal(new_order, spread):
                return super().reorder_encoder_out(encoder_out, new_order)
        elif new_order.numel() != beam * sentences:
            # [B] -> [B', beam] -> [B']
            encoder_out = super().reorder_encoder_out(encoder_out, new_order.view(-1, beam)[:, 0] // beam)
        return {**encoder_out, "beam": beam}

    def build_encoder_layer(self, cfg):
        return _wrapped(GatedEncoderLayer(cfg, return_fc=self.return_fc), cfg)


class GatedDecoder(TransformerDecoderBase):
    """Stock, less two things it does at every step: asking its last layer for attention weights that nobody
    reads, and walking all its modules to find the few whose cache follows the beams."""

    weights_asked = False

    def make_generation_fast_(self, need_attn: bool = False, **kwargs):
        self.weights_asked = bool(need_attn)

    def extract_features(
        self,
        prev_output_tokens,
        encoder_out=None,
        incremental_state=None,
        full_context_alignment: bool = False,
        alignment_layer: Optional[int] = None,
        alignment_heads: Optional[int] = None,
    ):
        """Extract as stock; attention weights only for --print-alignment or `alignment_layer`, else None."""
        if alignment_layer is None and not self.weights_asked:
            alignment_layer = -1  # no layer at all; None means the last one
        return super().extract_features(
            prev_output_tokens,
            encoder_out,
            incremental_state,
            full_context_alignment,
            alignment_layer,
            alignment_heads,
        )

    def output_layer(self, features):
        """Project as stock, [B, T, C] to [B, T, vocabulary]."""
        # where its weights are frozen, torch would multiply what is not contiguous sentence by sentence
        return super().output_layer(features.contiguous())

    def reorder_incremental_state_scripting(self, incremental_state, new_order):
        for layer in self.layers:
            for block in (layer.self_attn, layer.encoder_attn):
                if block is not None and block.num_heads:
                    block.reorder_incremental_state(incremental_state, new_order)

    def build_decoder_layer(self, cfg, no_encoder_attn=False):
        return _wrapped(GatedDecoderLayer(cfg, no_encoder_attn), cfg)


def attention_blocks(model: nn.Module) -> dict[str, GatedMultiheadAttention]:
    """Return the attention modules by name in DSP's order: encoder-self, decoder-cross, decoder-self."""
    return {
        name: part for name, part in gated_blocks(model).items() if isinstance(part, GatedMultiheadAttention)
    }


def gated_blocks(model: nn.Module) -> dict[str, Block]:
    """Return all modules with gates by name: attention in DSP's order, then encoder-ffn and decoder-ffn."""
    kinds = (GatedMultiheadAttention, GatedLinear)
    found = {name: part for name, part in model.named_modules() if isinstance(part, kinds)}
    return {name: found[name] for name in in_order(found, block_kind)}


def block_of(name: str, module: nn.Module) -> AttentionBlock:
    """Describe an attention module, or a gated second linear, as it is now."""
    if isinstance(module, GatedLinear):
        return AttentionBlock(name, module.num_groups, block_kind(name), module.neurons)
    return AttentionBlock(name, module.num_heads, block_kind(name))


def head_map_of(model: nn.Module) -> HeadMap:
    """Return the model's heads as they are now, removed ones not counted."""
    return HeadMap([block_of(name, module) for name, module in gated_blocks(model).items()])


def head_map_of_options(options: dict[str, Any]) -> HeadMap:
    """Return the heads of a model that is not built yet, by its flat options."""
    counts = _heads_kept(options["kept_heads"])[1] if options.get("kept_heads") else {}
    size = options.get(NEURONS) or 0
    blocks = []
    for side in ("encoder", "decoder"):
        cross = side == "decoder" and not options.get("no_cross_attention")
        for layer in range(options[f"{side}_layers"]):
            for part in ("self_attn", "encoder_attn") if cross else ("self_attn",):
                name = f"{side}.layers.{layer}.{part}"
                count = counts.get(name, options[f"{side}_attention_heads"])
                blocks.append(AttentionBlock(name=name, num_heads=count, kind=block_kind(name)))
            if size:
                name = f"{side}.layers.{layer}.fc2"
                count = counts.get(name, options[f"{side}_ffn_embed_dim"] // size)
                blocks.append(AttentionBlock(name, count, block_kind(name), size))
    return HeadMap(in_order(blocks, lambda block: block.kind))


def connect(model: nn.Module, switchboard: Optional[Switchboard]) -> None:
    """Let every block read its gates from `switchboard` (None: no gates at all)."""
    for position, module in enumerate(gated_blocks(model).values()):
        module.read_gates = None if switchboard is None else partial(switchboard.block_gates, position)


def encode_kept_heads(record: dict[str, list[int]]) -> str:
    """Return the record of surgery as the model's config has it: {block: heads kept, by first numbers}."""
    return json.dumps(record, separators=(",", ":"))


def apply_kept_heads(model: nn.Module, record: str) -> dict[str, list[int]]:
    """Give every block the number of heads the record says; weights come from the checkpoint.

    Returns:
        the record of all blocks; of feed-forward blocks that it does not name all groups are there

    Raises:
        OptionError: the record is damaged, or belongs to another architecture.
    """
    kept, _ = _heads_kept(record)
    head_map = head_map_of(model)
    kept, blocks = whole_record(kept, head_map), gated_blocks(model)
    if set(kept) != set(blocks):
        if all(block_kind(name) in FEED_FORWARD for name in set(kept) ^ set(blocks)):
            reason = "keeps groups of neurons of other layers, or of a size that {} does not say"
            raise OptionError("kept_heads", reason, NEURONS)
        reason = "names other attention blocks than this architecture has: "
        raise OptionError("kept_heads", f"{reason}{sorted(set(kept) ^ set(blocks))[:4]} ...")
    for block in head_map.blocks:
        heads, count = kept[block.name], block.num_heads
        if len(set(heads)) != len(heads) or not set(heads) <= set(range(count)):
            noun = "groups" if block.neurons else "heads"
            reason = f"keeps {noun} {heads} of {block.name}, which has the {noun} 0..{count - 1}"
            raise OptionError("kept_heads", f"{reason}, each once")
        if block.neurons:
            model.get_submodule(block.name.rpartition(".")[0]).resize_feed_forward(len(heads))
        else:
            blocks[block.name].resize(len(heads))
    return kept


def whole_record(record: dict[str, list[int]], original: HeadMap) -> dict[str, list[int]]:
    """Return a record of removal with the feed-forward blocks that it does not name: all theirs are there.

    Heads may have gone when the model had no groups of neurons yet.

    Args:
        original: the heads and groups before any removal.
    """
    missing = [block for block in original.blocks if block.neurons and block.name not in record]
    return {**record, **{block.name: list(range(block.num_heads)) for block in missing}}


def _heads_kept(record: str) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Read the record of surgery: the heads of every block, and their numbers."""
    try:
        kept = json.loads(record)
        return kept, {name: len(heads) for name, heads in kept.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise OptionError("kept_heads", f"is not a record of kept heads: {record[:80]!r}") from error


def block_kind(name: str) -> str:
    """Return the kind of a block by its name."""
    if name.endswith(".fc2"):
        return "encoder-ffn" if name.startswith("encoder.") else "decoder-ffn"
    if name.startswith("encoder."):
        return "encoder-self"
    return "decoder-cross" if name.endswith("encoder_attn") else "decoder-self"
