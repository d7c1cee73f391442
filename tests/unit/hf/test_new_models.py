"""A causal language model from scratch: changes of its configuration, its tokenizer, and who is causal."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
from clm_data import gpt2, pairs, tokenizer  # isort: skip

from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertLMHeadModel, GPT2Config

from dsp_plugin.hf.programs.chassis.arguments import CausalModelArguments
from dsp_plugin.hf.programs.chassis.clm_task import _is_causal
from dsp_plugin.hf.programs.chassis.new_models import begin_model, override
from dsp_plugin.options.errors import OptionError


def test_a_configuration_changes_as_told():
    config = GPT2Config()
    override(
        config,
        "n_layer=3, n_embd=64,n_inner=100,resid_pdrop=0,scale_attn_weights=false,num_attention_heads=4",
    )
    assert (config.n_layer, config.hidden_size, config.n_inner, config.n_head) == (3, 64, 100, 4)
    assert config.resid_pdrop == 0.0 and config.scale_attn_weights is False


@pytest.mark.parametrize(
    "text, said",
    [
        ("n_layers=3", "n_layers=3: a gpt2 has no n_layers, but n_layer"),
        ("n_layer", "n_layer: name=value,name=value belongs there"),
        ("n_layer=", "n_layer=: name=value,name=value belongs there"),
        ("n_layer=four", "n_layer=four: "),
        ("n_layer=1.5", "n_layer=1.5: "),
        ("scale_attn_weights=maybe", "true or false belongs there"),
        ("vocab_size=100", "vocab_size=100: the tokenizer says that"),
    ],
)
def test_what_a_configuration_has_not_is_refused(text, said):
    with pytest.raises(OptionError) as refusal:
        override(GPT2Config(), text)
    assert refusal.value.name == "config_overrides" and said in str(refusal.value)


def test_a_new_model_is_the_seeds_and_fits_its_tokenizer():
    def made():
        torch.manual_seed(7)
        config = GPT2Config(n_layer=1, n_head=2, n_embd=8, n_positions=32)
        return begin_model(AutoModelForCausalLM, config, words, None)

    words = tokenizer()
    one, other = made(), made()
    assert all(map(torch.equal, one.parameters(), other.parameters()))
    assert one.get_input_embeddings().num_embeddings == len(words) == one.config.vocab_size
    assert one.config.pad_token_id == one.config.eos_token_id == words.eos_token_id


def test_a_configuration_that_makes_no_model_is_refused():
    with pytest.raises(OptionError, match="config_name gpt2: .*divisible"):
        begin_model(AutoModelForCausalLM, GPT2Config(n_embd=10, n_head=3), tokenizer(), None)


def test_a_trained_tokenizer_is_the_same_each_time_and_loads_again(tmp_path):
    one, other = tokenizer(), tokenizer()
    assert one.get_vocab() == other.get_vocab() and len(one) == 280
    one.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*(" ".join(pair) for pair in pairs(5)), "ein Käse – 漢字 🙂  \n\t", ""]:
        ids = one(text)["input_ids"]
        assert again(text)["input_ids"] == ids
        assert again.decode(ids, clean_up_tokenization_spaces=False) == text
    assert again.eos_token_id == one.eos_token_id and again.model_max_length == 64


def test_a_model_that_sees_what_follows_is_told():
    sizes = dict(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    assert _is_causal(gpt2(40))
    assert not _is_causal(BertLMHeadModel(BertConfig(**sizes, initializer_range=0.5)))
    assert _is_causal(BertLMHeadModel(BertConfig(**sizes, initializer_range=0.5, is_decoder=True)))


@pytest.mark.parametrize(
    "given, trains, said",
    [
        ({}, True, "model_name_or_path or, for a new model, config_name is missing"),
        ({"config_name": "gpt2"}, True, "train_tokenizer N or tokenizer_name belongs to a new model"),
        (
            {"config_name": "gpt2", "train_tokenizer": 300, "tokenizer_name": "t"},
            True,
            "train_tokenizer N or tokenizer_name belongs",
        ),
        ({"config_name": "gpt2", "train_tokenizer": 300}, False, "a new model knows nothing: give do_train"),
        ({"model_name_or_path": "m", "train_tokenizer": 300}, True, "train_tokenizer is for a new model"),
        ({"model_name_or_path": "m", "config_overrides": "a=1"}, True, "config_overrides is for a new model"),
    ],
)
def test_a_new_model_is_told_whole(given, trains, said):
    with pytest.raises(OptionError) as refusal:
        CausalModelArguments(**given).check_source(trains)
    assert said in str(refusal.value)
