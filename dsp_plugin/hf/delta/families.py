"""Where the methods go in a model: encoders of the BERT/RoBERTa kind, and one function to add a family.

register_family("my-type", function): `function(encoder)` returns the `Places` of the base model of that type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Places:
    """The places of an encoder, by paths within it.

    Attributes:
        embeddings: of the module with the word embeddings, whose `word_embeddings` it is given ids.
        after_attention, after_feed_forward: one a layer, in their order: of the modules with `dropout`, which
            is called on the sub-layer's output before the residual sum and its LayerNorm.
    """

    embeddings: str
    after_attention: tuple[str, ...]
    after_feed_forward: tuple[str, ...]


Finder = Callable[[nn.Module], Places]
_FAMILIES: dict[str, Finder] = {}


def register_family(model_type: str, finder: Finder) -> None:
    """Let models of a type have all methods; a type that is known is replaced."""
    _FAMILIES[model_type] = finder


def bert_places(encoder: nn.Module) -> Places:
    """Return the places of encoders that are laid out as BERT's."""
    layers = range(len(encoder.encoder.layer))
    return Places(
        "embeddings",
        tuple(f"encoder.layer.{number}.attention.output" for number in layers),
        tuple(f"encoder.layer.{number}.output" for number in layers),
    )


for _type in ("bert", "roberta", "xlm-roberta", "camembert", "electra"):
    register_family(_type, bert_places)


def encoder_of(model: nn.Module) -> tuple[str, nn.Module]:
    """Return the path and the module of a model's encoder; the path is "" for a bare one.

    Raises:
        ValueError: the model is none of a known family; names it.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    known = ", ".join(sorted(_FAMILIES))
    if not isinstance(model, PreTrainedModel) or kind not in _FAMILIES:
        raise ValueError(
            f"{type(model).__name__} (model type {kind!r}) is of no known family: methods go into {known}; "
            "dsp_plugin.hf.delta.register_family adds one"
        )
    config = model.config
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        raise ValueError(f"{type(model).__name__} is a decoder here (is_decoder): methods go into encoders")
    encoder = model.base_model
    path = next(path for path, module in model.named_modules() if module is encoder)
    return path, encoder


def places_of(model: nn.Module) -> Places:
    """Return the places of a model, by paths in the whole model.

    Raises:
        ValueError: see `encoder_of`; a place is not as it should be.
    """
    path, encoder = encoder_of(model)
    found = _FAMILIES[model.config.model_type](encoder)
    lead = f"{path}." if path else ""
    places = Places(
        lead + found.embeddings,
        tuple(lead + one for one in found.after_attention),
        tuple(lead + one for one in found.after_feed_forward),
    )
    words = getattr(model.get_submodule(places.embeddings), "word_embeddings", None)
    if not isinstance(words, nn.Embedding):
        raise ValueError(f"{places.embeddings} of {type(model).__name__} has no word embeddings")
    return places
