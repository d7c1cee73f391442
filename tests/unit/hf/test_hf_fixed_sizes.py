"""Integers that a forward reads: they follow the heads where their role is certain, else the model is
refused.
"""

from __future__ import annotations

import dsp_plugin.hf  # noqa: F401  (first: it hides a torchaudio that cannot be loaded)  isort: skip

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention, eager_attention_forward

from dsp_plugin.hf import fill_heads, head_map_of, prune_heads
from dsp_plugin.hf.heads.layouts.locate import attentions_of

HEADS, GROUPS, SIZE, WIDTH = 6, 3, 4, 24


def projected(self, hidden_states):
    return self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)


def attended(self, query, key, value, attention_mask):
    """[B, H, L, d] -> [B, L, H, d]"""
    interface = ALL_ATTENTION_FUNCTIONS.get_interface(
        self.config._attn_implementation, eager_attention_forward
    )
    return interface(self, query, key, value, attention_mask, scaling=self.scaling)[0]


class Based(LlamaAttention):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.num_heads, self.num_key_value_heads = config.num_attention_heads, config.num_key_value_heads
        self.embed_dim = self.all_head_size = self.hidden_size = self.num_heads * self.head_dim
        self.window = 3


class Counts(Based):
    """Reads how many heads it has, and how wide they are together."""

    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, **kwargs):
        size, length, _ = hidden_states.shape
        query, key, value = projected(self, hidden_states)
        query = query.view(size, length, self.num_heads, self.head_dim).transpose(1, 2)
        key, value = (
            x.view(size, length, self.num_key_value_heads, self.head_dim).transpose(1, 2)
            for x in (key, value)
        )
        context = attended(self, query, key, value, attention_mask)
        context = context.reshape(size, length, self.embed_dim)
        return self.o_proj(context), None


class Helped(Counts):
    """Reads it in a method of its own, through a name of its own."""

    def _split(self, states, heads):
        return states.view(*states.shape[:2], heads, self.head_dim).transpose(1, 2)

    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, **kwargs):
        query, key, value = projected(self, hidden_states)
        query, key = self._split(query, self.num_heads), self._split(key, self.num_key_value_heads)
        context = attended(self, query, key, self._split(value, self.num_key_value_heads), attention_mask)
        return self.o_proj(context.reshape(*hidden_states.shape[:2], self.all_head_size)), None


class Harmless(Based):
    """Reads integers that are no numbers of heads, though one equals it."""

    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, **kwargs):
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = (x.view(shape).transpose(1, 2) for x in projected(self, hidden_states))
        context = attended(self, query / self.window, key * self.window, value, attention_mask)
        return self.o_proj(context.flatten(2)), None


class FromConfig(Based):
    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, **kwargs):
        config = self.config
        query, key, value = projected(self, hidden_states)
        query = query.view(*query.shape[:2], config.num_attention_heads, self.head_dim).transpose(1, 2)
        key, value = (x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2) for x in (key, value))
        return self.o_proj(attended(self, query, key, value, attention_mask).flatten(2)), None


class OfTwoMeanings(Based):
    """`hidden_size` is the width of the heads for the context, and of the model for what comes before."""

    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, **kwargs):
        hidden_states = hidden_states.reshape(-1, hidden_states.shape[1], self.hidden_size)
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = (x.view(shape).transpose(1, 2) for x in projected(self, hidden_states))
        context = attended(self, query, key, value, attention_mask)
        context = context.reshape(*hidden_states.shape[:2], self.hidden_size)
        return self.o_proj(context), None


class Unknown(Based):
    """Reads a number of heads under a name that does not say so."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.streams = config.num_key_value_heads

    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, **kwargs):
        query, key, value = projected(self, hidden_states)
        query = query.view(*query.shape[:2], -1, self.head_dim).transpose(1, 2)
        key, value = (x.view(*x.shape[:2], self.streams, self.head_dim).transpose(1, 2) for x in (key, value))
        return self.o_proj(attended(self, query, key, value, attention_mask).flatten(2)), None


class Turned(nn.Module):
    """A part that reads the number of heads."""

    def __init__(self, heads):
        super().__init__()
        self.num_heads = heads

    def forward(self, states):
        return states.view(*states.shape[:2], self.num_heads, -1).transpose(1, 2)


class InAPart(Based):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.turn = Turned(config.num_attention_heads)

    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, **kwargs):
        query, key, value = projected(self, hidden_states)
        key, value = (x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2) for x in (key, value))
        return self.o_proj(attended(self, self.turn(query), key, value, attention_mask).flatten(2)), None


class OfOne(LlamaModel):
    attention = Based

    def __init__(self, config):
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            layer.self_attn = self.attention(config, index)


def built(attention):
    config = LlamaConfig(
        vocab_size=9,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        head_dim=SIZE,
        intermediate_size=8,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    return type("OfOneAttention", (OfOne,), {"attention": attention})(config).eval()


# a size: what one head of the HeadMap (a key/value head and its two query heads) adds to it
@pytest.mark.parametrize(
    "attention, sizes",
    [
        (Counts, {"num_heads": 2, "num_key_value_heads": 1, "embed_dim": 2 * SIZE}),
        (Helped, {"num_heads": 2, "num_key_value_heads": 1, "all_head_size": 2 * SIZE}),
        (InAPart, {"num_heads": 2}),
        (Harmless, {}),
    ],
)
def test_sizes_follow_the_heads(attention, sizes):
    model = built(attention)
    ids = torch.arange(1, 8)[None]
    stock = model(ids).last_hidden_state
    found = attentions_of(model)
    assert {size.name: size.unit for size in found[0].sizes} == sizes
    keep = [True, False, True, False, False, False]  # the second block has none left
    with torch.no_grad():
        outputs = [a.output.module.weight.clone() for a in found]
        for block, attention in enumerate(found):
            closed = torch.tensor(keep[block * GROUPS : (block + 1) * GROUPS]).repeat_interleave(2 * SIZE)
            attention.output.module.weight *= closed
        masked = model(ids).last_hidden_state
        for attention, weight in zip(found, outputs):
            attention.output.module.weight.copy_(weight)
    prune_heads(model, keep)
    left = attentions_of(model)
    assert [a.block.num_heads for a in left] == [2, 0]
    assert {size.name: getattr(size.module, size.name) for size in left[0].sizes} == {
        n: 2 * unit for n, unit in sizes.items()
    }
    torch.testing.assert_close(model(ids).last_hidden_state, masked, rtol=0, atol=1e-5)
    assert not torch.allclose(masked, stock, atol=1e-2)
    fill_heads(model)
    assert {size.name: getattr(size.module, size.name) for size in attentions_of(model)[1].sizes} == {
        name: GROUPS * unit for name, unit in sizes.items()
    }
    torch.testing.assert_close(model(ids).last_hidden_state, masked, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "attention, reason",
    [
        (FromConfig, "reads config.num_attention_heads in its forward, which is the same for all blocks"),
        (OfTwoMeanings, "reads hidden_size = 24 in its forward"),
        (Unknown, "reads streams = 3 in its forward"),
    ],
)
def test_what_cannot_follow_the_heads_is_refused(attention, reason):
    with pytest.raises(
        ValueError, match=f"OfOneAttention is not supported: .*{attention.__name__}. {reason}"
    ):
        head_map_of(built(attention))


def test_a_size_that_says_something_else_than_its_name_is_refused():
    model = built(Counts)
    model.layers[1].self_attn.num_heads = GROUPS
    with pytest.raises(ValueError, match="layers.1.self_attn .Counts. reads num_heads = 3"):
        head_map_of(model)
