"""fairseq's multi-head attention with gates on its heads and with any number of heads, even none.

Shapes: T queries, S keys, B sentences, C = embed_dim, h heads of this block, d = head_dim,
beam = hypotheses a sentence that share one encoder output.
"""

from collections.abc import Callable
from typing import Optional

import torch
import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn

from ...gating.gates import for_examples, heads_open
from .decoding_cache import DecodingCache


class OutputBias(nn.Module):
    """What is left of an output projection when a block has no head: its bias [C]."""

    def __init__(self, bias: Tensor):
        super().__init__()
        self.bias = nn.Parameter(bias.detach().clone())


class GatedMultiheadAttention(MultiheadAttention):
    """Stock parameters and key names (`q_proj` ... `out_proj`), so that a stock checkpoint loads into it.

    Differences from the stock module: `scaled_dot_product_attention` in training and in incremental decoding
    alike; each head's context is multiplied by its gate just before the output projection; h * d may differ
    from C once heads were taken out (`resize`); attention weights are worked out only where they are asked
    for (`--print-alignment`, `need_head_weights`), never because a decoder layer asks by default.

    Raises:
        ValueError: xFormers, extra key/value biases or zero attention are configured, which gates do not
            cover.
    """

    def __init__(self, embed_dim, num_heads, **kwargs):
        for option in ("add_bias_kv", "add_zero_attn", "xformers_att_config"):
            if kwargs.get(option):
                raise ValueError(f"{option} cannot be combined with gated attention heads")
        super().__init__(embed_dim, num_heads, **kwargs)
        # a plain callable, not a submodule: the switchboard belongs to the model, not to its blocks
        self.read_gates: Optional[Callable[[], Optional[Tensor]]] = None
        self.weights_asked = False
        # is shown the weights [B', h, beam * T, S] of every forward pass, while somebody measures them
        self.show_weights: Optional[Callable[[Tensor], None]] = None

    def resize(self, num_heads: int) -> None:
        """Make room for `num_heads` heads of the same size d; a checkpoint is to fill the new weights."""
        if num_heads == self.num_heads:
            return
        width, bias = num_heads * self.head_dim, self.q_proj.bias is not None
        self.num_heads = num_heads
        if num_heads == 0:
            self.q_proj = self.k_proj = self.v_proj = None
            self.out_proj = OutputBias(self.out_proj.bias)
            return
        self.q_proj = nn.Linear(self.embed_dim, width, bias=bias)
        self.k_proj = nn.Linear(self.kdim, width, bias=bias)
        self.v_proj = nn.Linear(self.vdim, width, bias=bias)
        self.out_proj = nn.Linear(width, self.embed_dim, bias=bias)

    def make_generation_fast_(self, need_attn: bool = False, **kwargs):
        self.weights_asked = bool(need_attn)

    def forward(
        self,
        query: Tensor,
        key: Optional[Tensor],
        value: Optional[Tensor],
        key_padding_mask: Optional[Tensor] = None,
        incremental_state: Optional[dict[str, dict[str, Optional[Tensor]]]] = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Optional[Tensor] = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Optional[Tensor]]:
        """Attend as the stock module does.

        Args:
            query: [T, B, C].
            key, value: [S, B, C]; B may be B / beam for the cross-attention of a beam search.
            key_padding_mask: [B, S], True or 1 where a key is padding.
            attn_mask: [T, S], additive (-inf = masked) or boolean (True = masked).

        Returns:
            output [T, B, C]; attention weights [B, T, S] averaged over heads (or [h, B, T, S] with
            `need_head_weights`) where they are asked for, else None. In evaluation mode these are the weights
            of the heads whose gate is open, as in the model without the others; of a block with none they
            spread evenly.

        Raises:
            NotImplementedError: `before_softmax`.
        """
        if before_softmax:
            raise NotImplementedError("before_softmax is not offered by gated attention")
        want_weights = need_head_weights or (need_weights and self.weights_asked)
        tgt_len, bsz, _ = query.shape
        if self.num_heads == 0:
            return self._without_heads(query, key, key_padding_mask, want_weights, need_head_weights)

        keys, values, mask = self._keys_and_values(
            query, key, value, key_padding_mask, incremental_state, static_kv
        )
        kv_bsz, src_len = keys.size(0), keys.size(2)
        beam = bsz // kv_bsz
        # hypotheses of one sentence share keys and values: lay them side by side as queries
        # B' sentences of `beam` hypotheses each: [T, B, h * d] -> [T, B', beam, h, d] -> [B', h, beam * T, d]
        queries = self.q_proj(query).view(tgt_len, kv_bsz, beam, self.num_heads, self.head_dim)
        queries = queries.permute(1, 3, 2, 0, 4)
        queries = queries.reshape(kv_bsz, self.num_heads, beam * tgt_len, self.head_dim)
        if attn_mask is not None:
            mask = self._joined_mask(mask, attn_mask, queries.dtype, beam)

        dropout = self.dropout_module.p if self._drops() else 0.0
        if want_weights or self.show_weights is not None:
            context, weights = self._explicit_attention(queries, keys, values, mask, dropout)
        else:
            context = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout)
            weights = None

        if self.show_weights is not None:
            self.show_weights(weights.detach())
            weights = weights if want_weights else None

        # [B', h, beam * T, d] -> [B', h, beam, T, d] -> [T, B', beam, h, d] -> [T, B, h, d]
        context = context.view(kv_bsz, self.num_heads, beam, tgt_len, self.head_dim).permute(3, 0, 2, 1, 4)
        context = context.reshape(tgt_len, bsz, self.num_heads, self.head_dim)
        gates = self.read_gates() if self.read_gates is not None else None
        if gates is not None:
            # [h] or, one row an example, [B, h]; cast so that half-precision contexts stay half
            context = context * for_examples(gates, bsz).to(context.dtype).unsqueeze(-1)
        output = self.out_proj(context.reshape(tgt_len, bsz, -1))  # [T, B, h * d] -> [T, B, C]

        if weights is None:
            return output, None
        # [B', h, beam * T, S] -> [B', h, beam, T, S] -> [h, B', beam, T, S] -> [h, B, T, S]
        weights = weights.view(kv_bsz, self.num_heads, beam, tgt_len, src_len).permute(1, 0, 2, 3, 4)
        weights = weights.reshape(self.num_heads, bsz, tgt_len, src_len)
        open_heads = None if self.training or gates is None else heads_open(gates)
        if open_heads is not None:
            weights = weights[open_heads]
            if len(weights) == 0:  # as the block will be without its heads
                weights = self._even_weights(query, key, key_padding_mask)[None]
        return output, weights if need_head_weights else weights.mean(dim=0)

    def _drops(self) -> bool:
        return self.dropout_module.p > 0 and (self.training or self.dropout_module.apply_during_inference)

    def _split_heads(self, projected: Tensor) -> Tensor:
        """Turn [S, B, h * d] into [B, h, S, d]."""
        src_len, bsz, _ = projected.shape
        # [S, B, h * d] -> [S, B, h, d] -> [B, h, S, d]
        return projected.view(src_len, bsz, self.num_heads, self.head_dim).permute(1, 2, 0, 3)

    def _keys_and_values(
        self, query, key, value, key_padding_mask, incremental_state, static_kv
    ) -> tuple[Tensor, Tensor, Optional[Tensor]]:
        """Project this step's keys and values [B', h, S, d], with the cache, and their mask [B', 1, 1, S]."""
        saved = self._get_input_buffer(incremental_state) if incremental_state is not None else None
        if saved and static_kv and "key_mask" in saved:
            keys = saved["prev_key"]
            return keys, saved["prev_value"], first_keys(saved["key_mask"], keys.size(2))

        if self.self_attention:
            key = value = query
        elif self.encoder_decoder_attention and saved is not None:
            if self.beam_size > 1 and query.size(1) == key.size(1):
                # every sentence's encoder output comes beam times: one is enough
                key = value = key[:, :: self.beam_size]
                if key_padding_mask is not None:
                    key_padding_mask = key_padding_mask[:: self.beam_size]
        keys, values = self.k_proj(key), self.v_proj(value)
        if saved is not None and not static_kv:
            keys, values = saved.setdefault("cache", DecodingCache()).append(keys, values)
            saved["prev_key"] = None  # a decoder layer only asks whether it is there
            saved["prev_key_padding_mask"] = key_padding_mask = self._append_prev_key_padding_mask(
                key_padding_mask=key_padding_mask,
                prev_key_padding_mask=saved.get("prev_key_padding_mask"),
                batch_size=keys.size(1),
                src_len=keys.size(0),
                static_kv=False,
            )
        keys, values, mask = (
            self._split_heads(keys),
            self._split_heads(values),
            key_mask(key_padding_mask, keys.dtype),
        )
        if saved is not None:
            if static_kv:
                # read at every step from here on: worth laying down in order
                keys, values = keys.contiguous(), values.contiguous()
                beam = query.size(1) // keys.size(0)
                saved.update(prev_key=keys, prev_value=values, key_mask=mask, beam=beam)
            self._set_input_buffer(incremental_state, saved)
        return keys, values, first_keys(mask, keys.size(2))

    def reorder_incremental_state(self, incremental_state, new_order: Tensor):
        """Reorder as stock: hypothesis i goes on from hypothesis new_order[i], of the same sentence."""
        saved = self._get_input_buffer(incremental_state)
        if "cache" in saved:
            saved["cache"].reorder(new_order)
            rows, names = new_order, ("prev_key_padding_mask",)
        elif saved and new_order.numel() != saved["prev_key"].size(0) * saved["beam"]:
            # sentences have finished; as long as none has, what all hypotheses of a sentence share stays
            # where it is
            beam = saved["beam"]
            # [B] -> [B', beam] -> [B'], the sentences that are left
            rows, names = new_order.view(-1, beam)[:, 0] // beam, ("prev_key", "prev_value", "key_mask")
        else:
            return incremental_state
        for name in names:
            if saved[name] is not None:
                saved[name] = saved[name].index_select(0, rows)
        return incremental_state

    @staticmethod
    def _joined_mask(mask: Optional[Tensor], attn_mask: Tensor, dtype: torch.dtype, beam: int) -> Tensor:
        """Join key mask and `attn_mask` [T, S] to an additive mask, broadcastable to [B', h, beam * T, S]."""
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=dtype).masked_fill(attn_mask, float("-inf"))
        attn_mask = attn_mask.to(dtype)
        if beam > 1:
            attn_mask = attn_mask.repeat(beam, 1)
        return attn_mask if mask is None else mask + attn_mask

    def _explicit_attention(self, queries, keys, values, mask, dropout) -> tuple[Tensor, Tensor]:
        """Return context [B', h, Q, d] and weights [B', h, Q, S], which fused attention cannot give."""
        # [B', h, Q, d] @ [B', h, d, S] -> [B', h, Q, S]
        logits = (queries * self.scaling) @ keys.transpose(-2, -1)
        logits = logits if mask is None else logits + mask
        # half precision is too coarse for a softmax; double stays double, as in the fused path
        wide = torch.promote_types(logits.dtype, torch.float32)
        weights = torch.softmax(logits, dim=-1, dtype=wide).type_as(logits)
        return F.dropout(weights, dropout) @ values, weights

    def _without_heads(
        self, query, key, key_padding_mask, want_weights, need_head_weights
    ) -> tuple[Tensor, Optional[Tensor]]:
        """Return the output bias alone, without projection or cache; weights, if asked for, spread evenly."""
        tgt_len, bsz, embed_dim = query.shape
        # [C] -> [T, B, C]
        output = self.out_proj.bias.to(query.dtype).expand(tgt_len, bsz, embed_dim)
        if not want_weights:
            return output, None
        weights = self._even_weights(query, key, key_padding_mask)
        return output, weights[None] if need_head_weights else weights

    @staticmethod
    def _even_weights(query: Tensor, key: Tensor, key_padding_mask: Optional[Tensor]) -> Tensor:
        """Return weights [B, T, S] that are the same for every key that is no padding."""
        tgt_len, bsz, _ = query.shape
        src_len = key.size(0)
        weights = query.new_ones(key.size(1), src_len)
        if key_padding_mask is not None:
            weights = weights.masked_fill(key_padding_mask.to(torch.bool), 0.0)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        # [B', S] -> [B, 1, S] -> [B, T, S]
        return weights.repeat_interleave(bsz // key.size(1), dim=0)[:, None, :].expand(bsz, tgt_len, src_len)


def key_mask(padding: Optional[Tensor], dtype: torch.dtype) -> Optional[Tensor]:
    """Make the additive mask [B, 1, 1, S'] of a padding mask [B, S]; None if there is none.

    S' is S rounded up to a multiple of 8: on a GPU fused attention wants aligned rows, and would copy others
    at every call. Cut it with `first_keys`.
    """
    if padding is None:
        return None
    bsz, src_len = padding.shape
    mask = torch.zeros(bsz, 1, 1, -(-src_len // 8) * 8, dtype=dtype, device=padding.device)
    mask[..., :src_len].masked_fill_(padding.to(torch.bool)[:, None, None, :], float("-inf"))
    return mask


def first_keys(mask: Optional[Tensor], src_len: int) -> Optional[Tensor]:
    """Cut [B, 1, 1, S'] to [B, 1, 1, S]."""
    return None if mask is None else mask[..., :src_len]
