"""Random inputs for models of many kinds: they run, are the same for one seed, and leave model and random
states alone.
"""

from __future__ import annotations

import dsp_plugin.hf  # noqa: F401  (first: it hides a torchaudio that cannot be loaded)  isort: skip

from collections.abc import Callable

import pytest
import torch
import transformers as T
from hf_models import tiny_model, whisper
from torch import nn

from dsp_plugin.hf.probes.config_numbers import special_ids
from dsp_plugin.hf.probes.random_inputs import random_inputs

SMALL = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20)
PIXELS = dict(image_size=32, patch_size=16)


def spectra() -> T.PreTrainedModel:
    return whisper(max_source_positions=16, max_target_positions=32)


def wav2vec2() -> T.PreTrainedModel:
    convolutions = dict(conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2)
    return T.Wav2Vec2Model(
        T.Wav2Vec2Config(**SMALL, **convolutions, num_conv_pos_embedding_groups=2, num_conv_pos_embeddings=4)
    )


def clip() -> T.PreTrainedModel:
    text = {**SMALL, "vocab_size": 40, "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}
    return T.CLIPModel(T.CLIPConfig(text_config=text, vision_config={**SMALL, **PIXELS}, projection_dim=8))


def llava() -> T.PreTrainedModel:
    vision = T.CLIPVisionConfig(**SMALL, **PIXELS, projection_dim=8)
    text = T.LlamaConfig(**SMALL, vocab_size=40, num_key_value_heads=1, pad_token_id=1, eos_token_id=2)
    return T.LlavaForConditionalGeneration(
        T.LlavaConfig(vision_config=vision, text_config=text, image_token_index=7)
    )


def informer() -> T.PreTrainedModel:
    return T.TimeSeriesTransformerModel(
        T.TimeSeriesTransformerConfig(
            prediction_length=3,
            context_length=6,
            lags_sequence=[1, 2],
            num_time_features=2,
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=20,
            decoder_ffn_dim=20,
        )
    )


KINDS: dict[str, tuple[Callable[[], T.PreTrainedModel], tuple[str, ...]]] = {
    "encoder": (lambda: tiny_model("bert"), ("input_ids", "attention_mask", "token_type_ids")),
    "decoder": (lambda: tiny_model("llama"), ("input_ids", "attention_mask")),
    "encoder and decoder": (lambda: tiny_model("t5"), ("input_ids", "attention_mask", "decoder_input_ids")),
    "boxes": (
        lambda: T.LayoutLMModel(T.LayoutLMConfig(**SMALL, vocab_size=40)),
        ("input_ids", "attention_mask", "bbox"),
    ),
    "images": (lambda: T.ViTModel(T.ViTConfig(**SMALL, **PIXELS)), ("pixel_values",)),
    "waves": (wav2vec2, ("input_values", "attention_mask")),
    "spectra": (spectra, ("input_features", "decoder_input_ids")),
    "images and text": (clip, ("input_ids", "attention_mask", "pixel_values")),
    "images within text": (llava, ("input_ids", "attention_mask", "pixel_values")),
    "series": (
        informer,
        ("past_values", "past_time_features", "past_observed_mask", "future_values", "future_time_features"),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_runs_with_them(kind):
    make, names = KINDS[kind]
    model = make().double().train()
    before = torch.random.get_rng_state()
    inputs = random_inputs(model, seed=5)

    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(part.training for part in model.modules())
    assert set(names) <= inputs.keys()
    assert all(value.dtype in (torch.float64, torch.int64) for value in inputs.values())
    assert {value.shape[0] for value in inputs.values()} == {2}
    model.eval()(**inputs)
    again, other = random_inputs(model, seed=5), random_inputs(model, seed=6)
    assert all(torch.equal(again[name], inputs[name]) for name in inputs)
    assert any(
        other[name].shape != inputs[name].shape or not torch.equal(other[name], inputs[name])
        for name in inputs
    )


def test_text_has_no_special_tokens_but_the_end_of_each_sequence():
    model = tiny_model("llama")  # pads with 1, ends with 2
    inputs = random_inputs(model, size=3, length=9)
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    assert mask.sum(1).tolist() == [9, 6, 3] and mask[:, -1].all(), "padded on the left"
    assert (ids[:, -1] == 2).all() and (ids[~mask] == 1).all()
    assert not special_ids(model.config) & set(ids[:, :-1][mask[:, :-1]].tolist())


def test_an_image_within_text_has_a_place_for_each_of_its_features():
    inputs = random_inputs(llava())
    assert (inputs["input_ids"] == 7).sum(1).tolist() == [4, 4]
    assert "pixel_values" not in random_inputs(llava(), text_only=True)


def test_one_example_where_a_model_takes_no_more():
    model = T.GPT2ForSequenceClassification(
        T.GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, pad_token_id=None)
    )
    assert random_inputs(model)["input_ids"].shape[0] == 1


def test_a_model_that_cannot_be_fed_is_named():
    class Picky(T.BertModel):
        def forward(self, what):
            return what

    with pytest.raises(ValueError, match="Picky cannot be made.*inputs of your own"):
        random_inputs(Picky(T.BertConfig(**SMALL, vocab_size=40)))
    with pytest.raises(ValueError, match="Linear cannot be made.*not a Transformers model"):
        random_inputs(nn.Linear(2, 2))
