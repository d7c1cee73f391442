"""Tiny Transformers models with random weights, one a family, that are quick to run and sensitive to every
head.
"""

from __future__ import annotations

import dsp_plugin.hf  # noqa: F401  (first: it hides a torchaudio that cannot be loaded)  isort: skip

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

VOCABULARY = 40
BERT_SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40)
_ENCODER = dict(**BERT_SIZES, vocab_size=VOCABULARY, max_position_embeddings=40, pad_token_id=1)
_SEQ2SEQ = dict(
    vocab_size=VOCABULARY,
    d_model=32,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=2,
    encoder_ffn_dim=40,
    decoder_ffn_dim=40,
    pad_token_id=1,
    bos_token_id=0,
    eos_token_id=2,
)
_TRANSLATOR = dict(**_SEQ2SEQ, max_position_embeddings=40, decoder_start_token_id=2, forced_eos_token_id=None)
_DECODER = {**_ENCODER, "bos_token_id": 0, "eos_token_id": 2}
_GROUPED = {**_DECODER, "num_attention_heads": 8, "num_key_value_heads": 4}
# the names that sizes have in configurations of families that know no `intermediate_size`
_FALCON = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
_GPT2 = dict(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=40)
_T5 = dict(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=40, num_layers=2, num_heads=4)
_DEBERTA = dict(**_ENCODER, relative_attention=True)

_CLASSIFIER, _GENERATOR = "ForSequenceClassification", "ForConditionalGeneration"


def _of(name: str, kind: str = "ForCausalLM", **sizes: Any) -> Callable[[], PreTrainedModel]:
    """Return what makes a model of this family and these sizes, with random weights."""

    def make() -> PreTrainedModel:  # imports the family only here
        config = getattr(transformers, name + "Config")(**sizes)
        return getattr(transformers, name + kind)(config)

    return make


def whisper(**sizes: Any) -> PreTrainedModel:
    """A Whisper whose sequences are no text; `sizes` in place of those of the other families."""
    given = {**_SEQ2SEQ, "num_mel_bins": 8, "decoder_start_token_id": 3, **sizes}
    return _of("Whisper", _GENERATOR, **given)()


# one head is one row of the HeadMap, a group of 2 query heads for Llama
FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": _of("Bert", _CLASSIFIER, **_ENCODER),
    "roberta": _of("Roberta", _CLASSIFIER, **_ENCODER),
    "distilbert": _of(
        "DistilBert",
        _CLASSIFIER,
        **dict(
            vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=4, hidden_dim=40, max_position_embeddings=40
        ),
    ),
    "albert": _of(
        "Albert", _CLASSIFIER, **{**_ENCODER, "num_hidden_layers": 4}, embedding_size=16, num_hidden_groups=2
    ),
    "electra": _of("Electra", _CLASSIFIER, **_ENCODER, embedding_size=16),
    "gpt2": _of("GPT2", "LMHeadModel", **_GPT2, bos_token_id=0, eos_token_id=2),
    "llama": _of("Llama", **_GROUPED),
    "bart": _of("Bart", _GENERATOR, **_TRANSLATOR),
    "marian": _of("Marian", "MTModel", **_TRANSLATOR),
    "t5": _of("T5", _GENERATOR, **_T5, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2),
}
# not in every test: families whose attention has a layout of its own, or that work it out by themselves
MORE: dict[str, Callable[[], PreTrainedModel]] = {
    "deberta-v2": _of("DebertaV2", _CLASSIFIER, **_DEBERTA, pos_att_type=["c2p", "p2c"], position_buckets=4),
    "deberta-v3": _of(
        "DebertaV2",
        _CLASSIFIER,
        **_DEBERTA,
        pos_att_type="p2c|c2p",
        position_buckets=256,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
    ),
    "mpnet": _of("MPNet", _CLASSIFIER, **_ENCODER),
    "modernbert": _of("ModernBert", _CLASSIFIER, **_ENCODER, global_attn_every_n_layers=2, local_attention=4),
    "roformer": _of("RoFormer", _CLASSIFIER, **_ENCODER),
    "rembert": _of("RemBert", _CLASSIFIER, **_ENCODER, input_embedding_size=16, output_embedding_size=16),
    "megatron-bert": _of("MegatronBert", _CLASSIFIER, **_ENCODER),
    "gpt-neox": _of("GPTNeoX", **_DECODER),
    "persimmon": _of("Persimmon", **_DECODER),
    "phi": _of("Phi", **_GROUPED),
    "phi with norms": _of("Phi", **_DECODER, qk_layernorm=True),
    "stablelm": _of("StableLm", **_GROUPED),
    "qwen3": _of("Qwen3", **_GROUPED, head_dim=4),
    "opt": _of(
        "OPT", **_FALCON, ffn_dim=40, pad_token_id=1, max_position_embeddings=40, word_embed_proj_dim=32
    ),
    "gptj": _of("GPTJ", **_GPT2, rotary_dim=4),
    "gpt-neo": _of(
        "GPTNeo",
        **dict(vocab_size=VOCABULARY, hidden_size=32, num_layers=2, num_heads=4),
        attention_types=[[["global", "local"], 1]],
        window_size=4,
        max_position_embeddings=40,
        intermediate_size=40,
    ),
    "bloom": _of("Bloom", vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
    "mpt": _of("Mpt", vocab_size=VOCABULARY, d_model=32, n_layers=2, n_heads=4, max_seq_len=40),
    "xglm": _of(
        "XGLM",
        **dict(vocab_size=VOCABULARY, d_model=32, num_layers=2, attention_heads=4),
        ffn_dim=40,
        max_position_embeddings=40,
    ),
    "falcon": _of(
        "Falcon",
        **{**_FALCON, "hidden_size": 64, "num_attention_heads": 8},
        num_kv_heads=4,
        new_decoder_architecture=True,
    ),
    "falcon with alibi": _of("Falcon", **_FALCON, multi_query=False, alibi=True),
    "falcon of one key": _of("Falcon", **{**_FALCON, "num_hidden_layers": 4}),
    "whisper": lambda: whisper(max_source_positions=16, max_target_positions=40),
}
# mask with the least number of the model's precision, which single precision must hold
SINGLE = ("bloom", "mpt", "xglm")
DECODERS = ("gpt2", "llama", "bart", "marian", "t5")
HEADS = {"bart": 16, "marian": 16, "t5": 24}  # the others: 8
# Llama and T5 compute their norms in single precision, whatever the model's is
TOLERANCE = {"llama": 1e-5, "t5": 1e-5}


def tiny_model(
    family: str, implementation: str = "sdpa", dtype: torch.dtype = torch.float64
) -> PreTrainedModel:
    """A model in `eval()`; weights large enough that attention is not the mean and every head counts, no
    zero biases.
    """
    torch.manual_seed(3)
    model = (FAMILIES.get(family) or MORE[family])()
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not weight.requires_grad:  # Marian's sinusoids, which are not saved
                continue
            if weight.dim() > 1:
                weight.normal_(std=0.3)
            elif "norm" not in name.lower() and "ln_" not in name:
                weight.normal_(std=0.1)
    model.tie_weights()
    return model.to(dtype).eval()


def batch_of(
    model: PreTrainedModel, size: int = 3, length: int = 7, padding: bool = True
) -> dict[str, Tensor]:
    """Inputs; the sequences are of different lengths, padded on the left for decoders, which go on at the
    right.
    """
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, VOCABULARY, (size, length), generator=generator)
    lengths = length - 2 * torch.arange(size) if padding else torch.full((size,), length)
    mask = (torch.arange(length) < lengths[:, None]).long()
    if model.config.model_type in ("gpt2", "llama"):
        mask = mask.flip(1)
    batch = {
        "input_ids": torch.where(mask.bool(), ids, model.config.pad_token_id or 0),
        "attention_mask": mask,
    }
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = torch.randint(3, VOCABULARY, (size, 5), generator=generator)
    return batch


def logits(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """The model's logits, those of real tokens only where there is one a token."""
    output = model(**batch).logits
    mask = batch["attention_mask"]
    return output[mask.bool()] if output.shape[:2] == mask.shape else output


def uneven_mask(num_heads: int, blocks: list[int]) -> Tensor:
    """Bool [N]: about half of the heads; the second block has none left, the first lacks its first head."""
    generator = torch.Generator().manual_seed(7)
    keep = torch.rand(num_heads, generator=generator) < 0.5
    keep[0], keep[1], keep[-1] = False, True, True
    keep[blocks[0] : blocks[0] + blocks[1]] = False
    return keep
