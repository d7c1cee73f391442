"""Comparing two models of any kind: by all their outputs, whatever their inputs are called."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import tiny_model, whisper  # isort: skip
import transformers
from torch import nn

from dsp_plugin.hf import compare, random_batches
from dsp_plugin.hf.probes.sample_batches import sample_batches, text_batches

_SIZES = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20)


def vit():
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(**_SIZES, image_size=8, patch_size=4, num_channels=3)
    )


def speech():
    return whisper(max_source_positions=12, max_target_positions=20)


def clip():
    text = dict(
        _SIZES, vocab_size=40, max_position_embeddings=20, bos_token_id=0, eos_token_id=2, pad_token_id=1
    )
    vision = dict(_SIZES, image_size=8, patch_size=4)
    return transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    )


def detector():
    return transformers.YolosForObjectDetection(
        transformers.YolosConfig(**_SIZES, image_size=[8, 8], patch_size=4, num_detection_tokens=3)
    )


# model, tokens and sequences of `sample_batches`, outputs, data
KINDS = {
    "images": (vit, 6, 6, ["logits"]),
    "speech": (speech, 3 * 12 + 5 + 2, 6, ["logits", "encoder_last_hidden_state"]),
    "text and images": (
        clip,
        None,
        6,
        ["logits_per_image", "logits_per_text", "text_embeds", "image_embeds"],
    ),
    "boxes": (detector, 6 * 3, 6, ["logits", "pred_boxes", "last_hidden_state"]),
    "text": (
        lambda: tiny_model("bert").bert,
        12 + 11 + 10 + 5 + 2,
        6,
        ["last_hidden_state", "pooler_output"],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_any_inputs_are_compared(kind):
    build, tokens, sequences, outputs = KINDS[kind]
    torch.manual_seed(1)
    model = build()
    other = copy.deepcopy(model)
    batches = sample_batches(model)
    same = compare(model, other, batches)
    assert (
        same.equal
        and same.largest_difference == 0 < same.largest_output
        and sorted(same.outputs) == sorted(outputs)
    )
    assert same.sequences == sequences and tokens in (None, same.tokens)
    with torch.no_grad():
        [
            weight
            for name, weight in other.named_parameters()
            if "layernorm" in name.lower() or "layer_norm" in name
        ][-1].add_(0.5)
    assert not compare(model, other, batches).equal
    again = [*random_batches(model, 2, 2, 6)]
    assert all(
        torch.equal(one[name], two[name])
        for one, two in zip(again, random_batches(model, 2, 2, 6))
        for name in one
    )


def test_embeddings_in_the_place_of_ids():
    model = tiny_model("bert")
    ids, mask = torch.arange(3, 11).view(2, 4), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    embeds = model.bert.embeddings.word_embeddings(ids).detach()
    found = compare(model, copy.deepcopy(model), [{"inputs_embeds": embeds, "attention_mask": mask}])
    assert (found.tokens, found.sequences, found.largest_difference) == (6, 2, 0.0)
    by_ids = compare(model.bert, copy.deepcopy(model.bert), [{"input_ids": ids, "attention_mask": mask}])
    by_embeds = compare(
        model.bert, copy.deepcopy(model.bert), [{"inputs_embeds": embeds, "attention_mask": mask}]
    )
    assert by_ids == by_embeds


class Own(nn.Module):
    """A user's own module: its output in several forms."""

    def __init__(self, form):
        super().__init__()
        self.encoder, self.form = tiny_model("bert").bert, form

    def forward(self, input_ids, attention_mask=None):
        return self.form(self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state)


@pytest.mark.parametrize(
    "form, names",
    [
        (lambda x: x, ["output"]),
        (lambda x: (x[:, 0], x), ["output 0", "output 1"]),
        (lambda x: {"loss": x.sum(), "scores": x[:, 0], "place": x.argmax(1)}, ["scores"]),
    ],
)
def test_a_users_own_module_in_several_forms(form, names):
    model = Own(form).train()
    model.encoder.embeddings.eval()  # a part that the user has set
    other = copy.deepcopy(model)
    batch = next(random_batches(model.encoder, 1))
    found = compare(model, other, [batch])
    assert found.equal and list(found.outputs) == names
    assert model.training and model.encoder.encoder.training and not model.encoder.embeddings.training
    with torch.no_grad():
        other.encoder.embeddings.LayerNorm.bias += 1
    assert not compare(model, other, [batch]).equal


def test_what_cannot_be_compared_is_refused():
    batch = next(random_batches(tiny_model("bert"), 1))
    one, two = Own(lambda x: {"scores": x[:, :1, 0]}), Own(lambda x: {"scores": x[:, :2, 0]})
    with pytest.raises(
        ValueError, match=r"scores cannot be compared: they are of the shapes \[3, 1\] and \[3, 2\]"
    ):
        compare(one, two, [batch])  # which would broadcast
    with pytest.raises(
        ValueError,
        match="have none of the outputs logits, .* in common, nor another: Own gives scores, Own none",
    ):
        compare(one, Own(lambda x: {"loss": x.sum()}), [batch])
    torch.manual_seed(1)
    with pytest.raises(ValueError, match="CLIPModel does not take text alone"):
        text_batches(clip(), None)
