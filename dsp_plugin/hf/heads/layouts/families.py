"""Layouts of attention and feed-forward blocks by family: names of projections, and classes that compute
attention by themselves.

Notation: d size of a head, G query heads that share one key/value head, H query heads, B examples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from .projections import Bias

TESTED = (
    "BERT, RoBERTa, DistilBERT, ALBERT, ELECTRA, DeBERTa-v2, MPNet, ModernBERT, GPT-2, GPT-NeoX, GPT-J, "
    "GPT-Neo, OPT, BLOOM, Falcon, MPT, Phi, StableLM, Llama, BART, Marian, T5, Whisper"
)

HEAD_DIM = ("attention_head_size", "head_dim", "head_size", "key_value_proj_dim")
CROSS = {"encoder_attn", "crossattention", "cross_attn", "EncDecAttention"}

# (query, key, value), then the names the output projection may have; `..` is the module around the attention
# module
SEPARATE: tuple[tuple[tuple[str, str, str], tuple[str, ...]], ...] = (
    # BART, Marian, OPT; Llama and its kin; Phi; ModernBERT's decoder
    (("q_proj", "k_proj", "v_proj"), ("out_proj", "o_proj", "dense", "Wo", "projection_layer")),
    (("query", "key", "value"), ("dense", "../output.dense")),  # ALBERT; BERT, RoBERTa, ELECTRA
    (("query_proj", "key_proj", "value_proj"), ("../output.dense",)),  # DeBERTa-v2
    (("q_lin", "k_lin", "v_lin"), ("out_lin",)),  # DistilBERT, XLM
    (("q", "k", "v"), ("o",)),  # T5, MPNet
)
# classes of projections whose own forward is that of an `nn.Linear`
LINEAR_LIKE = frozenset({"falcon.FalconLinear"})
# further projections of the input to heads, where a module has them (DeBERTa-v2, without `share_att_key`)
FURTHER = ("pos_key_proj", "pos_query_proj")


@dataclass(frozen=True)
class Joint:
    """A layout with query, key and value in one matrix.

    Attributes:
        input, output: names of the projections.
        interleaved: the rows of G queries, a key and a value lie together, head by head; else the matrix has
            three sections.
        classes: the classes with this layout, as `family_of` names them.
    """

    input: str
    output: str
    interleaved: bool
    classes: frozenset[str]


_INTERLEAVED = frozenset(
    "gpt_neox.GPTNeoXAttention bloom.BloomAttention falcon.FalconAttention "
    "persimmon.PersimmonAttention".split()
)
JOINT = (
    Joint("Wqkv", "Wo", False, frozenset({"modernbert.ModernBertAttention"})),
    Joint("Wqkv", "out_proj", False, frozenset({"mpt.MptAttention"})),
    Joint("query_key_value", "dense", True, _INTERLEAVED),
)


@dataclass(frozen=True)
class FeedForwardNames:
    """Names of the projections of a feed-forward block, in the module that holds them all.

    Attributes:
        inputs: the up projection, or up and gate.
        output: the down projection.
        parts: up and gate lie side by side in one matrix, where it is 2.
    """

    inputs: tuple[str, ...]
    output: str
    parts: int = 1


# the first that fits a module counts
FEED_FORWARDS = (
    FeedForwardNames(("intermediate.dense",), "output.dense"),  # BERT, RoBERTa, ELECTRA, DeBERTa-v2, MPNet
    FeedForwardNames(("lin1",), "lin2"),  # DistilBERT
    FeedForwardNames(("ffn",), "ffn_output"),  # ALBERT
    FeedForwardNames(("c_fc",), "c_proj"),  # GPT-2, GPT-Neo
    FeedForwardNames(("fc_in",), "fc_out"),  # GPT-J
    FeedForwardNames(("fc1",), "fc2"),  # BART, Marian, OPT, Whisper: in the layer itself; Phi
    FeedForwardNames(("wi_0", "wi_1"), "wo"),  # T5 1.1 and its kin
    FeedForwardNames(("wi",), "wo"),  # T5
    FeedForwardNames(("gate_proj", "up_proj"), "down_proj"),  # Llama and its kin, StableLM
    FeedForwardNames(("gate_up_proj",), "down_proj", parts=2),  # Phi-3
    FeedForwardNames(("up_proj",), "down_proj"),  # MPT
    FeedForwardNames(("dense_h_to_4h",), "dense_4h_to_h"),  # GPT-NeoX, BLOOM, Falcon
    FeedForwardNames(("Wi",), "Wo", parts=2),  # ModernBERT
    FeedForwardNames(("intermediate_dense",), "output_dense"),  # wav2vec 2.0 and its kin
)


@dataclass(frozen=True)
class OwnForward:
    """A class that computes its attention by itself, and whose forward was read and tried.

    Attributes:
        biases: arguments that have a dimension of heads.
        causal: it attends to earlier positions only, though no attribute of the module says so.
        no_sizes: integers its forward reads that may equal a number or width of heads, and are none.
        unless: module -> reason why this one cannot be served after all; None: it can.
    """

    biases: tuple[Bias, ...] = ()
    causal: bool = False
    no_sizes: frozenset[str] = frozenset()
    unless: Callable[[nn.Module], str | None] = lambda module: None


def sliced_weights(module: nn.Module) -> str | None:
    """Return why a module of BLOOM's cannot be served, which has its output projection cut into pieces."""
    if getattr(module, "pretraining_tp", 1) > 1 and module.slow_but_exact:
        return "slices the weight of its output projection (set config.slow_but_exact to False)"
    return None


OWN_FORWARD: dict[str, OwnForward] = {
    "deberta_v2.DisentangledSelfAttention": OwnForward(),
    "mpnet.MPNetSelfAttention": OwnForward(biases=(Bias("position_bias", 1),)),
    "bloom.BloomAttention": OwnForward(
        biases=(Bias("alibi", 0, batched=True),),
        causal=True,
        no_sizes=frozenset({"hidden_size", "dense"}),
        unless=sliced_weights,  # then alone it reads `hidden_size` and `dense.weight`
    ),
    # alibi is [B, H, 1, S], and folded into the mask, too, which has no dimension of heads otherwise
    "falcon.FalconAttention": OwnForward(biases=(Bias("alibi", 1), Bias("attention_mask", 1))),
    "mpt.MptAttention": OwnForward(biases=(Bias("position_bias", 0),), causal=True),
    "gptj.GPTJAttention": OwnForward(),
    "gpt_neo.GPTNeoSelfAttention": OwnForward(),
    "megatron_bert.MegatronBertSelfAttention": OwnForward(),
    "rembert.RemBertSelfAttention": OwnForward(),
    "roformer.RoFormerSelfAttention": OwnForward(),
    "xglm.XGLMAttention": OwnForward(causal=True),
}


def family_of(module_class: type) -> str:
    """Return the family and name of the Transformers class that defines a class's forward; "" for others.

    For example "bloom.BloomAttention", for that class and for one that inherits its forward.
    """
    for base in module_class.__mro__:
        if "forward" in base.__dict__:
            head, _, rest = base.__module__.partition("transformers.models.")
            return f"{rest.partition('.')[0]}.{base.__name__}" if rest and not head else ""
    return ""
