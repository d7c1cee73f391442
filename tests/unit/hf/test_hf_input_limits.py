"""The longest input of a model, against the model itself: it takes so many tokens, and not one more."""

from __future__ import annotations

import hf_models  # first: see there  isort: skip

import pytest
import torch
from transformers import AutoConfig, AutoModel

from dsp_plugin.hf.data.input_limits import check_inputs, longest_input
from dsp_plugin.hf.data.tokenised import PackedDataset
from dsp_plugin.options.errors import OptionError

SMALL = dict(
    vocab_size=40,
    hidden_size=16,
    d_model=16,
    num_hidden_layers=1,
    n_layers=1,
    num_layers=1,
    n_layer=1,
    encoder_layers=1,
    decoder_layers=1,
    num_attention_heads=2,
    n_heads=2,
    num_heads=2,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    intermediate_size=16,
    hidden_dim=16,
    dim=16,
    d_ff=16,
    d_kv=8,
    encoder_ffn_dim=16,
    decoder_ffn_dim=16,
    emb_dim=16,
    embedding_size=16,
    max_position_embeddings=24,
    pad_token_id=1,
    n_embd=16,
    n_head=2,
    d_inner=16,
    num_key_value_heads=2,
    head_dim=8,
    d_head=8,
)
# model_type -> positions of the 24 rows, None where there is no end
LIMITS = {
    "bert": 24,
    "distilbert": 24,
    "albert": 24,
    "electra": 24,
    "xlm": 24,
    "roberta": 22,
    "xlm-roberta": 22,
    "camembert": 22,
    "mpnet": 22,
    "bart": 24,
    "gpt2": 24,
    "opt": 24,
    "roformer": 24,
    "nystromformer": 24,
    "deberta-v2": 24,
    "t5": None,
    "xlnet": None,
    "llama": None,
    "m2m_100": None,
}


@pytest.mark.parametrize("kind", LIMITS)
def test_so_many_tokens_and_not_one_more(kind):
    config = AutoConfig.for_model(kind)
    for name, value in SMALL.items():
        if hasattr(config, name) and not (kind == "xlnet" and name == "max_position_embeddings"):
            setattr(config, name, value)
    model = AutoModel.from_config(config).eval()
    assert longest_input(model) == LIMITS[kind]
    if LIMITS[kind] is None:
        _run(model, 40)
        return
    _run(model, LIMITS[kind])
    with pytest.raises((RuntimeError, IndexError, ValueError)):
        _run(model, LIMITS[kind] + 1)


@torch.no_grad()
def _run(model, length):
    ids = torch.full((1, length), 5)
    more = {"decoder_input_ids": ids[:, :2]} if model.config.is_encoder_decoder else {}
    model(input_ids=ids, attention_mask=torch.ones_like(ids), **more)


@pytest.mark.parametrize(
    "column, largest, said",
    [
        ("input_ids", 39, None),
        ("input_ids", 40, "token 40"),
        ("token_type_ids", 1, None),
        ("token_type_ids", 2, "segment 2"),
    ],
)
def test_numbers_beyond_a_table_are_refused(column, largest, said):
    data = PackedDataset()
    rows = {"input_ids": [[3, 4], [5]], "token_type_ids": [[0, 1], [0]]}
    rows[column][1] = [largest]
    data.extend(rows)
    model = hf_models.tiny_model("bert")
    if said is None:
        check_inputs(data, model, "some")
    else:
        with pytest.raises(OptionError, match=f"^tokenizer_name some gives {said}, and the model has"):
            check_inputs(data, model, "some")
    check_inputs(PackedDataset(), model, "nothing in it")
