"""Where heads are found, and what is refused: sizes are not roles, and no attention is overlooked."""

from __future__ import annotations

import dsp_plugin.hf  # noqa: F401  (first: it hides a torchaudio that cannot be loaded)  isort: skip

import pytest
import torch
import torch.nn.functional as F
import transformers
from hf_models import tiny_model
from torch import nn
from transformers import BertPreTrainedModel, LlamaConfig, LlamaModel
from transformers.models.llama.modeling_llama import LlamaAttention

from dsp_plugin.hf import head_map_of
from dsp_plugin.hf.heads.layouts.locate import attentions_of

SIZE = 8  # heads, size of a head and width at once: no size tells a role


class Plus(LlamaAttention):
    """Attention with one tensor more."""

    make = staticmethod(lambda config: None)

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        more = type(self).make(config)
        if isinstance(more, nn.Parameter):
            self.more = more
        elif isinstance(more, nn.Module):
            self.more = more
        elif more is not None:
            self.register_buffer("more", more, persistent=False)


class LlamaPlus(LlamaModel):
    attention = Plus

    def __init__(self, config):
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            layer.self_attn = self.attention(config, index)


def coinciding(**more):
    return LlamaConfig(
        vocab_size=9,
        hidden_size=SIZE,
        num_hidden_layers=1,
        num_attention_heads=SIZE,
        num_key_value_heads=SIZE,
        head_dim=SIZE,
        intermediate_size=SIZE,
        **more,
    )


def built(make, attention=Plus, config=None):
    attention_class = type("MadeUpAttention", (attention,), {"make": staticmethod(make)})
    model_class = type("MadeUpModel", (LlamaPlus,), {"attention": attention_class})
    return model_class(coinciding() if config is None else config)


def parameter(*shape):
    return nn.Parameter(torch.ones(shape))


# role: (how the tensor is made, whether no head has a share in it)
ROLES = {
    "nothing": (lambda c: None, True),
    "one number a feature of a head": (lambda c: parameter(c.head_dim), True),
    "a norm over the features of a head": (lambda c: nn.LayerNorm(c.head_dim), True),
    "a buffer of frequencies": (lambda c: torch.ones(c.head_dim), True),
    "a table of fixed size": (lambda c: torch.ones(1, 1, 8, 8), True),
    "a number for all": (lambda c: parameter(1), True),
    "a sink a head": (lambda c: parameter(c.num_attention_heads), False),
    "a scale a head, as a buffer": (lambda c: torch.ones(c.num_attention_heads), False),
    "a scale a head, of four dimensions": (lambda c: parameter(1, c.num_attention_heads, 1, 1), False),
    "a number a key/value head": (lambda c: parameter(c.num_key_value_heads), False),
    "a table of relative positions a head": (lambda c: nn.Embedding(SIZE, c.num_attention_heads), False),
    "a mixture of heads": (lambda c: nn.Linear(c.num_attention_heads, c.num_attention_heads), False),
    "a norm over all heads": (lambda c: nn.LayerNorm(c.num_attention_heads * c.head_dim), False),
    "norms, one a head": (
        lambda c: nn.ModuleList([nn.LayerNorm(c.head_dim) for _ in range(c.num_attention_heads)]),
        False,
    ),
}


@pytest.mark.parametrize("role", ROLES)
def test_sizes_are_not_roles(role):
    make, nobodys = ROLES[role]
    model = built(make)
    if nobodys:
        assert head_map_of(model).num_heads == SIZE
    else:
        with pytest.raises(
            ValueError,
            match="MadeUpModel is not supported: .*MadeUpAttention. has weights that may belong.*more",
        ):
            head_map_of(model)


def test_a_tensor_that_the_configuration_does_not_make_is_refused_where_its_size_leaves_it_open():
    model = built(lambda config: None)
    model.layers[0].self_attn.sinks = torch.zeros(SIZE)  # no parameter and no buffer
    with pytest.raises(ValueError, match="may belong to heads in a way not known here: sinks"):
        head_map_of(model)
    model.layers[0].self_attn.sinks = torch.zeros(SIZE - 1)  # of no size that eight heads could share
    assert head_map_of(model).num_heads == SIZE


class Beside(nn.Module):
    """Attention of a made-up kind."""

    def __init__(self, width: int):
        super().__init__()
        self.mix = nn.Linear(width, 3 * width)

    def forward(self, hidden_states):
        query, key, value = self.mix(hidden_states).chunk(3, dim=-1)
        return torch.softmax(query @ key.transpose(-1, -2), dim=-1) @ value


class Router(nn.Module):
    """Weights of experts: a softmax, and no scores of pairs."""

    def __init__(self, width: int):
        super().__init__()
        self.gate = nn.Linear(width, 4)

    def forward(self, hidden_states):
        return torch.softmax(self.gate(hidden_states), dim=-1)


class Pooled(BertPreTrainedModel):
    """A task head of one's own on BERT."""

    head = staticmethod(lambda width: None)

    def __init__(self, config):
        super().__init__(config)
        self.bert = transformers.BertModel(config)
        self.pool = self.head(config.hidden_size)
        self.post_init()


class Around(nn.Module):
    """A user's own module around BERT."""

    def __init__(self, model, pool):
        super().__init__()
        self.encoder, self.pool = model, pool


def bert_config():
    return transformers.BertConfig(
        vocab_size=9, hidden_size=SIZE, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8
    )


@pytest.mark.parametrize(
    "make",
    [Beside, lambda width: nn.MultiheadAttention(width, 2)],
    ids=["by its source", "MultiheadAttention"],
)
def test_attention_of_another_kind_is_not_overlooked(make):
    model = type("PooledBert", (Pooled,), {"head": staticmethod(make)})(bert_config())
    with pytest.raises(
        ValueError, match="PooledBert is not supported: its module pool .* works out attention by itself"
    ):
        head_map_of(model)
    model = Around(transformers.BertModel(bert_config()), make(SIZE))  # what a user has beside it is a user's
    assert [block.name for block in head_map_of(model).blocks] == [
        f"encoder.encoder.layer.{i}.attention" for i in (0, 1)
    ]


@pytest.mark.parametrize("make", [Router, lambda width: nn.Linear(width, width)])
def test_what_is_no_attention_is_left_alone(make):
    assert (
        head_map_of(type("PooledBert", (Pooled,), {"head": staticmethod(make)})(bert_config())).num_heads == 4
    )


def test_attention_in_a_task_head_is_counted():
    make = staticmethod(lambda width: transformers.models.bert.modeling_bert.BertLayer(bert_config()))
    model = type("PooledBert", (Pooled,), {"head": make})(bert_config())
    names = [block.name for block in head_map_of(model).blocks]
    assert names == ["encoder.layer.0.attention", "encoder.layer.1.attention", "pool.attention"]


def test_a_mixture_of_experts_is_taken():
    config = transformers.MixtralConfig(
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=8,
        num_local_experts=2,
    )
    assert head_map_of(transformers.MixtralModel(config)).num_heads == 2


def test_one_output_projection_of_two_blocks_is_refused():
    model = tiny_model("bert")
    first, second = (layer.attention.output for layer in model.bert.encoder.layer)
    second.dense = first.dense
    with pytest.raises(
        ValueError, match="the output projection of encoder.layer.0.attention is another block's, too"
    ):
        head_map_of(model)


class Uncalled(LlamaAttention):
    """Attention that never calls its output projection."""

    def forward(self, hidden_states, **kwargs):
        inner = super().forward(hidden_states, **kwargs)
        return F.linear(inner[0], self.o_proj.weight), inner[1]


def test_a_projection_that_is_not_called_is_refused():
    with pytest.raises(ValueError, match="uses o_proj.weight without calling the projection"):
        head_map_of(built(lambda config: None, type("UncalledPlus", (Uncalled, Plus), {})))


@pytest.mark.parametrize(
    "model, reason",
    [
        (lambda: nn.Linear(2, 2), "Linear is not a Transformers model, and holds none"),
        (
            lambda: transformers.DiffLlamaModel(
                transformers.DiffLlamaConfig(
                    vocab_size=9,
                    hidden_size=8,
                    num_hidden_layers=1,
                    num_attention_heads=4,
                    num_key_value_heads=4,
                    intermediate_size=8,
                )
            ),
            "DiffLlamaAttention. splits or repeats its heads by their places",
        ),
        (
            lambda: transformers.SiglipVisionModel(
                transformers.SiglipVisionConfig(
                    hidden_size=8,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    intermediate_size=8,
                    image_size=8,
                    patch_size=4,
                )
            ),
            "head.attention .MultiheadAttention. works out attention by itself",
        ),
    ],
)
def test_models_that_are_refused(model, reason):
    with pytest.raises(ValueError, match=reason):
        head_map_of(model())


def test_names_do_not_change_with_the_task_head():
    whole = tiny_model("bert")
    assert head_map_of(whole).blocks == head_map_of(whole.bert).blocks
    assert all(attention.output.out is False for attention in attentions_of(whole))
