"""Modules that are traced into ONNX graphs: a model in one pass, or one step of a decoder with its cache.

Notation: B sequences, L new tokens, P tokens in the cache, S source tokens, h_i key/value heads that block i
has left, d size of a head, C width of the model, V vocabulary.

    single pass          input_ids [B, L], attention_mask [B, L] (token_type_ids [B, L]) -> logits ...
    decoder step         input_ids [B, L], attention_mask [B, P + L], position_ids [B, L],
                         past_key_values.i.key, .value [B, h_i, P, d]
                         -> logits [B, L, V], present.i.key, .value [B, h_i, P + L, d]
    encoder              input_ids [B, S], attention_mask [B, S]
                         -> last_hidden_state [B, S, C], present.i.encoder.key, .value [B, h_i, S, d]
    its decoder's step   input_ids [B, L], attention_mask [B, P + L], encoder_attention_mask [B, S],
                         past_key_values.i.decoder.key, .value [B, h_i, P, d],
                         past_key_values.i.encoder.key, .value [B, h_i, S, d]
                         -> logits [B, L, V], present.i.decoder.key, .value [B, h_i, P + L, d]

The first step is one with P = 0. A block without heads has no cache, and no names. The encoder's graph holds
the keys and values of cross-attention, so that no step works them out again.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from ..heads.layouts.locate import Attention, attentions_of
from ..heads.surgery.empty_cache import ShapedLayer
from ..probes.comparison import OUTPUTS

# sizes to trace with: none of them 0 or 1, which a trace takes for constants, and no two alike
_B, _L, _P, _S = 3, 5, 4, 7
_SELF, _CROSS = "decoder-self", "decoder-cross"
_PAST = "past_key_values.{}"


class Inputs:
    """What a graph takes, in this order.

    Attributes:
        shapes: name of every input -> its shape as it is traced; axes named by `axes` may be of any size.
        axes: name of every input -> {dimension: name of what it counts}.
    """

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.axes: dict[str, dict[int, str]] = {}

    def ids(self, name: str, length: int, axis: str) -> None:
        """Add an input of whole numbers [B, length]."""
        self.shapes[name], self.axes[name] = (_B, length), {0: "batch", 1: axis}

    def caches(self, name: str, attentions: list[Attention], length: int, axis: str) -> None:
        """Add the keys and values [B, h, length, d] of all blocks with heads; `name` has room for a layer."""
        for layer, attention in enumerate(attentions):
            for part in ("key", "value") if attention.block.num_heads else ():
                key = f"{name.format(layer)}.{part}"
                self.shapes[key] = (_B, attention.block.num_heads, length, head_dim(attention))
                self.axes[key] = {0: "batch", 2: axis}

    def named(self, tensors: Iterable[Tensor]) -> dict[str, Tensor]:
        """Return the tensors by their names."""
        return dict(zip(self.shapes, tensors))

    def example(self) -> tuple[Tensor, ...]:
        """Make inputs to trace with, in the order of `shapes`."""
        generator = torch.Generator().manual_seed(1)
        return tuple(
            torch.randn(shape, generator=generator) if len(shape) > 2 else torch.ones(shape, dtype=torch.long)
            for shape in self.shapes.values()
        )


class Graph(nn.Module):
    """A module whose inputs and outputs are tensors.

    Attributes:
        inputs: what it takes.
        outputs: names of the outputs.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model
        self.inputs = Inputs()
        self.outputs: list[str] = []


class SinglePass(Graph):
    """A model that needs no cache: an encoder with or without a task head."""

    def __init__(self, model: PreTrainedModel):
        super().__init__(model)
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            if name != "token_type_ids" or _takes_segments(model):
                self.inputs.ids(name, _L, "length")
        with torch.no_grad():
            given = model(**self.inputs.named(self.inputs.example()))
        self.outputs = [name for name in OUTPUTS if given.get(name) is not None]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = self.model(**self.inputs.named(inputs))
        return tuple(given[name] for name in self.outputs)


class DecoderStep(Graph):
    """One step of a decoder-only language model."""

    def __init__(self, model: PreTrainedModel):
        super().__init__(model)
        self.attentions = by_layer(model, _SELF)
        self.inputs.ids("input_ids", _L, "length")
        self.inputs.ids("attention_mask", _P + _L, "past + length")
        if "position_ids" in inspect.signature(model.forward).parameters:
            self.inputs.ids("position_ids", _L, "length")
        self.inputs.caches(_PAST, self.attentions, _P, "past")
        self.outputs = ["logits", *_present(self.inputs.shapes)]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = self.inputs.named(inputs)
        past = {name: given.pop(name) for name in list(given) if name.startswith("past_key_values.")}
        (size, new), length = given["input_ids"].shape, given["attention_mask"].shape[1]
        cache = _cache(self.attentions, past, _PAST, size, length - new)
        logits = self.model(**given, past_key_values=cache, use_cache=True).logits
        return (logits, *_tensors(cache, self.attentions))


class EncoderPass(Graph):
    """The encoder of an encoder-decoder, with the keys and values of its decoder's cross-attention."""

    def __init__(self, model: PreTrainedModel):
        super().__init__(model)
        self.attentions = by_layer(model, _CROSS)
        self.inputs.ids("input_ids", _S, "source")
        self.inputs.ids("attention_mask", _S, "source")
        present = [f"present.{layer}.encoder" for layer, a in enumerate(self.attentions) if a.block.num_heads]
        caches = [f"{name}.{part}" for name in present for part in ("key", "value")]
        self.outputs = ["last_hidden_state", *caches]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        hidden = self.model.get_encoder()(**self.inputs.named(inputs)).last_hidden_state
        given = [hidden]
        for attention in self.attentions:
            if attention.block.num_heads:
                _, key, value, _ = attention.projections
                shape = (*hidden.shape[:2], -1, head_dim(attention))
                # [B, S, h * d] -> [B, S, h, d] -> [B, h, S, d]
                given += [part.module(hidden).view(shape).transpose(1, 2) for part in (key, value)]
        return tuple(given)


class CrossDecoderStep(Graph):
    """One step of the decoder of an encoder-decoder."""

    def __init__(self, model: PreTrainedModel):
        super().__init__(model)
        self.attentions, self.crossing = by_layer(model, _SELF), by_layer(model, _CROSS)
        self.inputs.ids("input_ids", _L, "length")
        self.inputs.ids("attention_mask", _P + _L, "past + length")
        self.inputs.ids("encoder_attention_mask", _S, "source")
        self.inputs.caches(f"{_PAST}.decoder", self.attentions, _P, "past")
        self.outputs = ["logits", *_present(self.inputs.shapes)]
        self.inputs.caches(f"{_PAST}.encoder", self.crossing, _S, "source")

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = self.inputs.named(inputs)
        ids, mask, source, *_ = inputs
        own = _cache(self.attentions, given, f"{_PAST}.decoder", ids.shape[0], mask.shape[1] - ids.shape[1])
        cross = _cache(self.crossing, given, f"{_PAST}.encoder", *source.shape)
        cache = EncoderDecoderCache(own, DynamicCache())
        cache.cross_attention_cache = cross
        cache.is_updated = dict.fromkeys(range(len(self.crossing)), True)
        # only its sizes are read, because all keys and values are in the cache
        hidden = torch.zeros(*source.shape, 1, dtype=self.model.dtype)
        logits = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            attention_mask=source,
            decoder_input_ids=ids,
            decoder_attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        ).logits
        return (logits, *_tensors(own, self.attentions))


def graphs_of(model: PreTrainedModel) -> dict[str, Graph]:
    """Return the graphs of a model by the names of their files.

    Raises:
        ValueError: the model is not supported, or is of a kind that is none of those above.
    """
    kinds = {attention.block.kind for attention in attentions_of(model)}
    generates = model.can_generate()
    if model.config.is_encoder_decoder and generates:
        return {"encoder_model.onnx": EncoderPass(model), "decoder_model.onnx": CrossDecoderStep(model)}
    if model.config.is_encoder_decoder or _CROSS in kinds:
        raise ValueError(
            f"{type(model).__name__} cannot be exported to ONNX: of models with cross-attention those that "
            "generate text can (such as BartForConditionalGeneration); export it as dense"
        )
    return {"model.onnx": DecoderStep(model) if generates and _SELF in kinds else SinglePass(model)}


def by_layer(model: PreTrainedModel, kind: str) -> list[Attention]:
    """Return the blocks of one kind in the order of the layers that a cache numbers.

    Raises:
        ValueError: a block does not say which layer of a cache is its own.
    """
    found = [attention for attention in attentions_of(model) if attention.block.kind == kind]
    if any(getattr(attention.module, "layer_idx", None) is None for attention in found):
        reason = "its attention does not tell which layer of a cache is its own"
        raise ValueError(f"{type(model).__name__} cannot be exported to ONNX: {reason}")
    return sorted(found, key=lambda attention: attention.module.layer_idx)


def head_dim(attention: Attention) -> int:
    """Return d, the number of rows that one key head has."""
    joint = attention.projections[0].parts > 1
    return attention.projections[0 if joint else 1].unit


def _takes_segments(model: PreTrainedModel) -> bool:
    known = "token_type_ids" in inspect.signature(model.forward).parameters
    return known and getattr(model.config, "type_vocab_size", 0) > 1


def _present(names: Iterable[str]) -> list[str]:
    return [f"present.{name.partition('.')[2]}" for name in names if name.startswith("past_key_values.")]


def _cache(
    attentions: list[Attention], tensors: dict[str, Tensor], name: str, size: int, length: int
) -> DynamicCache:
    """Make a cache of these tensors [B, h, P, d]; a block without heads has keys [B, 0, P, d]."""
    cache = DynamicCache()
    cache.layers = []
    for index, attention in enumerate(attentions):
        layer, base = ShapedLayer(), name.format(index)
        if attention.block.num_heads:
            layer.keys, layer.values = (tensors[f"{base}.{part}"] for part in ("key", "value"))
        else:
            layer.keys = layer.values = torch.zeros(size, 0, length, head_dim(attention))
        layer.dtype, layer.device, layer.is_initialized = layer.keys.dtype, layer.keys.device, True
        cache.layers.append(layer)
    return cache


def _tensors(cache: DynamicCache, attentions: list[Attention]) -> Iterator[Tensor]:
    for layer, attention in zip(cache.layers, attentions):
        if attention.block.num_heads:
            yield layer.keys
            yield layer.values
