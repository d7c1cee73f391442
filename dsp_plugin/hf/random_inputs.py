"""Random inputs for any Transformers model: token ids, pixels, speech or series, as its `forward` and configuration ask.

What a model needs is not written down anywhere in one form. So likely sets of arguments are made, the fullest first, and
the first one that the model runs with is taken.
"""

from __future__ import annotations

import inspect
import math
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

Inputs = Dict[str, Tensor]

_TEXT = ("input_ids", "attention_mask", "token_type_ids", "bbox", "decoder_input_ids")
_IMAGE_SIZES = ("image_size", "img_size", "input_size", "crop_size", "sample_size")
_CHANNELS = ("num_channels", "in_channels", "in_chans", "num_image_channels")
_FRAMES = ("num_frames", "frames_per_clip", "n_frames", "tubelet_size")
_MEL_BINS = (
    "num_mel_bins", "input_feat_size", "feature_projection_input_dim", "input_feat_per_channel", "feature_size", "n_mels",
    "input_dim", "num_mel_features", "feature_dim", "input_channels", "num_hidden_features", "mel_bins", "input_feature_size",
)  # fmt: skip


def random_inputs(
    model: PreTrainedModel, size: int = 2, length: int = 8, seed: int = 0, padding: bool = True, text_only: bool = False
) -> Inputs:
    """Make keyword arguments that the model runs with, on its device, of its dtype.

    A model that takes text gets random token ids, none of them a special token but the end of each sequence; one that takes
    pixels, speech or series gets noise of the sizes in its configuration. A model of text and images is given both where that
    works, else text alone. The model runs once or more, without gradients, to try them; it is left as it was.

    Args:
        size: examples; one where the model does not take more.
        length: tokens of the longest sequence.
        seed: the same seed gives the same inputs; the global random states are neither read nor changed.
        padding: let the sequences of a batch differ in length, padded on the left for models that go on at the right.
        text_only: give a model of text and other things text alone.

    Raises:
        ValueError: no inputs were found that the model runs with; names the model and what it said.
    """
    name = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"random inputs for {name} cannot be made: it is not a Transformers model; give inputs of your own")
    said: List[str] = []
    for examples in dict.fromkeys((size, 1)):
        maker = _Maker(model, examples, length, seed, padding)
        for inputs in maker.candidates(text_only):
            error = _error_of(model, inputs)
            if error is None:
                return inputs
            said.append(f"with {', '.join(inputs)}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}")
    reason = f"it does not run {said[0]}" if said else "none of its arguments is known here"
    raise ValueError(f"random inputs for {name} cannot be made: {reason}; give inputs of your own")


class _Maker:
    """Sets of arguments for one model.

    Args:
        model, size, length, seed, padding: see `random_inputs`.
    """

    def __init__(self, model: PreTrainedModel, size: int, length: int, seed: int, padding: bool):
        self.model, self.size, self.seed, self.padding = model, size, seed, padding
        self.config = model.config
        self.parameters = inspect.signature(model.forward).parameters
        weight = next(iter(model.parameters()), torch.zeros(()))
        self.device, self.dtype = weight.device, next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        longest = _number(self.config, ("max_position_embeddings", "n_positions", "max_target_positions"), text=True)
        self.length = max(1, min(length, longest - 2 if longest and longest > 2 else length))
        self.generator = torch.Generator()

    def candidates(self, text_only: bool = False) -> Iterator[Inputs]:
        """Sets of arguments, the likeliest first, each from the same random numbers."""
        for build in self._builders(text_only):
            self.generator.manual_seed(self.seed)
            try:
                inputs = build()
            except (AttributeError, TypeError, ValueError, IndexError, KeyError, RuntimeError, NotImplementedError):
                continue  # the configuration lacks what this set is made from
            yield {name: value.to(self.device) for name, value in inputs.items() if value is not None}

    def _builders(self, text_only: bool) -> Iterator[Callable[[], Inputs]]:
        takes = self.parameters.keys()
        first, text = self._first_argument(), "input_ids" in takes
        others: List[Callable[[], Inputs]] = []
        for names, makers in _OTHER_KINDS:
            if all(name in takes for name in names):
                others += [lambda make=make: make(self) for make in makers]
        if text and not text_only:
            yield from (lambda other=other: self._with_placeholders(other()) for other in others if self._placeholder())
        if text and (text_only or self._placeholder() or first in ("input_ids", "decoder_input_ids")):
            yield self._text
            yield lambda: {**self._text(), "bbox": self._boxes().to(self.dtype)}
        if text_only:
            return
        for other in others:
            if not text:
                yield lambda other=other: {**other(), **self._decoder()}
            yield other
        if text:
            yield from (lambda other=other: {**self._text(), **other()} for other in others)
            yield from (lambda one=one, two=two: {**self._text(), **one(), **two()} for one in others for two in others)
            yield self._text
            yield lambda: {name: value for name, value in self._text().items() if name == "input_ids"}
        if "inputs_embeds" in takes:
            yield lambda: {"inputs_embeds": self._normal(self.size, self.length, self._width())}

    def _first_argument(self) -> str:
        """The name of the argument that the model puts first: its class says so, or its signature."""
        name = self.model.main_input_name
        return name if isinstance(name, str) and name in self.parameters else next(iter(self.parameters), "")

    # text

    def _text(self) -> Inputs:
        lengths = self._lengths(self.length)
        kept = torch.arange(self.length) < lengths[:, None]
        ids = self._ids(self.length)
        end = _integers(getattr(_text_config(self.config), "eos_token_id", None))
        if end and end[0] < self._vocabulary() and self.length > 1:
            ids[torch.arange(self.size), lengths - 1] = end[0]
        pad = _integers(getattr(_text_config(self.config), "pad_token_id", None))
        ids = torch.where(kept, ids, pad[0] if pad and 0 <= pad[0] < self._vocabulary() else 0)
        if self._goes_on_at_the_right():
            ids, kept = (_to_the_right(part, lengths) for part in (ids, kept))
        inputs: Dict[str, Optional[Tensor]] = {"input_ids": ids, "attention_mask": kept.long()}
        types = _number(self.config, ("type_vocab_size",), text=True) or 0
        inputs["token_type_ids"] = (torch.arange(self.length) * 2 // self.length).expand(self.size, -1) if types > 1 else None
        inputs["bbox"] = self._boxes()
        inputs["decoder_input_ids"] = self._ids(self.length) if getattr(self.config, "is_encoder_decoder", False) else None
        return {name: inputs[name] for name in _TEXT if name in self.parameters and inputs[name] is not None}

    def _decoder(self) -> Inputs:
        return {"decoder_input_ids": self._ids(self.length)} if "decoder_input_ids" in self.parameters else {}

    def _ids(self, length: int) -> Tensor:
        special, vocabulary = special_ids(self.config), self._vocabulary()
        plain = [token for token in range(vocabulary) if token not in special] or list(range(vocabulary))
        return torch.tensor(plain)[torch.randint(len(plain), (self.size, length), generator=self.generator)]

    def _vocabulary(self) -> int:
        """Tokens there are embeddings for."""
        sizes = [_number(self.config, ("vocab_size", "text_vocab_size", "decoder_vocab_size"), text=True)]
        try:
            table = self.model.get_input_embeddings()
        except (NotImplementedError, AttributeError):
            table = None
        sizes += [table.num_embeddings] if isinstance(table, nn.Embedding) else []
        return min(s for s in sizes if s)

    def _lengths(self, length: int) -> Tensor:
        """Of each example: the first is the longest, the others get shorter."""
        return length - (torch.arange(self.size) * (1 + length // 4) % max(1, length - 1) if self.padding else torch.zeros(self.size).long())

    def _goes_on_at_the_right(self) -> bool:
        return not getattr(self.config, "is_encoder_decoder", False) and self.model.can_generate()

    def _boxes(self) -> Tensor:
        """[B, L, 4]: left, top, right, bottom."""
        largest = min(1000, (_number(self.config, ("max_2d_position_embeddings",)) or 1001) - 1)
        low, high = (torch.randint(part, (self.size, self.length, 2), generator=self.generator) for part in (largest // 2,) * 2)
        return torch.cat([low, low + high], dim=-1)

    # images

    def _placeholder(self) -> Optional[int]:
        """The id of the token in whose place the features of an image go."""
        return next((i for i in (getattr(self.config, n, None) for n in ("image_token_id", "image_token_index")) if isinstance(i, int)), None)

    def _with_placeholders(self, other: Inputs) -> Inputs:
        """Text with as many placeholders in front as the image of `other` has features."""
        if "pixel_values" not in other or not hasattr(self.model, "get_image_features"):
            raise ValueError("no image")
        moved = {name: value.to(self.device) for name, value in other.items()}
        with _aside(self.model):
            features = self.model.get_image_features(**moved)
        found = getattr(features, "pooler_output", features)
        count = found.shape[:-1].numel() if isinstance(found, Tensor) else sum(part.shape[:-1].numel() for part in found)
        if count % self.size:
            raise ValueError("the images differ in their features")
        images = torch.full((self.size, count // self.size), self._placeholder())
        ids, kept = self._ids(self.length), torch.ones(self.size, self.length + images.shape[1]).long()
        text = {"input_ids": torch.cat([images, ids], 1), "attention_mask": kept}
        if "mm_token_type_ids" in self.parameters:
            text["mm_token_type_ids"] = (text["input_ids"] == self._placeholder()).long()
        if "token_type_ids" in self.parameters:
            text["token_type_ids"] = (text["input_ids"] == self._placeholder()).long()
        return {**{name: value for name, value in text.items() if name in self.parameters}, **other}

    def _pixels(self) -> Inputs:
        return {"pixel_values": self._normal(self.size, self._channels(), *self._image_size())}

    def _clip(self, name: str = "pixel_values") -> Inputs:
        frames = _number(self.config, _FRAMES) or 2
        return {name: self._normal(self.size, frames, self._channels(), *self._image_size())}

    def _videos(self) -> Inputs:
        return self._clip("pixel_values_videos")

    def _patches(self) -> Tuple[Tensor, Tensor]:
        """Images cut into patches [images * 16, features], and their grids (frames, rows, columns) [images, 3]."""
        patch, frames = (_number(self.config, (name,)) for name in ("patch_size", "temporal_patch_size"))
        features = self._channels() * (frames or 1) * patch**2
        return self._normal(self.size * 16, features), torch.tensor([[1, 4, 4]] * self.size)

    def _grid(self) -> Inputs:
        return dict(zip(("hidden_states", "grid_thw"), self._patches()))

    def _image_grid(self) -> Inputs:
        return dict(zip(("pixel_values", "image_grid_thw"), self._patches()))

    def _pixel_grid(self) -> Inputs:
        return dict(zip(("pixel_values", "grid_thw"), self._patches()))

    def _channels(self) -> int:
        return _number(self.config, _CHANNELS) or 3

    def _image_size(self) -> Tuple[int, int]:
        for config in _configs(self.config):
            for name in _IMAGE_SIZES:
                size = getattr(config, name, None)
                if isinstance(size, dict):
                    size = (size["height"], size["width"])
                sides = _integers(size)
                if sides:
                    return sides[-2:] if len(sides) > 1 else (sides[0], sides[0])  # type: ignore[return-value]
        return 64, 64

    # speech and series

    def _waves(self) -> Inputs:
        """Samples [B, T], enough for 12 frames."""
        strides = next((s for c in _configs(self.config) for s in [_integers(getattr(c, "conv_stride", None))] if s), [])
        return {"input_values": self._normal(self.size, 12 * math.prod(strides) + 80 if strides else 1920)}

    def _waves_of_channels(self) -> Inputs:
        (waves,) = self._waves().values()
        return {"input_values": waves[:, None].expand(-1, _number(self.config, ("audio_channels",)) or 1, -1).contiguous()}

    def _spectrum(self) -> Inputs:
        """[B, frames, bins]"""
        bins, frames = _number(self.config, _MEL_BINS), _number(self.config, ("max_length", "spec_size")) or 16
        return {"input_values": self._normal(self.size, frames, bins)}

    def _frames(self) -> Inputs:
        """[B, frames, bins]"""
        return {"input_features": self._normal(self.size, 4 * self.length, _number(self.config, _MEL_BINS))}

    def _frames_last(self) -> Inputs:
        """[B, bins, frames], twice as many frames as the encoder has positions."""
        frames = 2 * (_number(self.config, ("max_source_positions",)) or 2 * self.length)
        return {"input_features": self._normal(self.size, _number(self.config, _MEL_BINS), frames)}

    def _masked(self, make: Callable[["_Maker"], Inputs], dim: int, name: str) -> Inputs:
        inputs = make(self)
        (values,) = inputs.values()
        length = values.shape[dim]
        mask = torch.arange(length) < self._lengths(length)[:, None]
        return {**inputs, name: mask.long()}

    def _series(self) -> Inputs:
        """Past and future values of the models of time series, [B, steps], with their features."""
        steps = self.config.context_length + max(self.config.lags_sequence)
        features = self.config.num_time_features
        ahead = self.config.prediction_length
        return {
            "past_values": self._normal(self.size, steps).abs() + 0.1,
            "past_time_features": self._normal(self.size, steps, features),
            "past_observed_mask": torch.ones(self.size, steps, dtype=self.dtype),
            "future_values": self._normal(self.size, ahead).abs() + 0.1,
            "future_time_features": self._normal(self.size, ahead, features),
        }

    def _channels_of_series(self) -> Inputs:
        return {"past_values": self._normal(self.size, self.config.context_length, self.config.num_input_channels)}

    def _plain_series(self) -> Inputs:
        values = self._normal(self.size, _number(self.config, ("context_length",)) or 32)
        given = {"past_values": values, "past_values_padding": torch.zeros_like(values).long(), "freq": torch.zeros(self.size, 1).long()}
        return {name: value for name, value in given.items() if name in self.parameters}

    def _trajectory(self) -> Inputs:
        states, actions = self.config.state_dim, self.config.act_dim
        return {
            "states": self._normal(self.size, self.length, states), "actions": self._normal(self.size, self.length, actions),
            "rewards": self._normal(self.size, self.length, 1), "returns_to_go": self._normal(self.size, self.length, 1),
            "timesteps": torch.arange(self.length).expand(self.size, -1),
            "attention_mask": torch.ones(self.size, self.length).long(),
        }  # fmt: skip

    def _queries(self) -> Inputs:
        wide = _number(self.config, ("encoder_hidden_size",)) or self._width()
        return {
            "query_embeds": self._normal(self.size, 4, self._width()),
            "encoder_hidden_states": self._normal(self.size, 6, wide),
        }

    def _width(self) -> int:
        return _number(self.config, ("hidden_size", "d_model", "n_embd", "dim", "embed_dim"), text=True)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float32).to(self.dtype)


# arguments that a model must have, and what is tried for them in turn
_OTHER_KINDS: Sequence[Tuple[Tuple[str, ...], Sequence[Callable[[_Maker], Inputs]]]] = (
    (("pixel_values", "image_grid_thw"), (_Maker._image_grid,)),
    (("pixel_values", "grid_thw"), (_Maker._pixel_grid,)),
    (("hidden_states", "grid_thw"), (_Maker._grid,)),
    (("pixel_values",), (_Maker._pixels, _Maker._clip)),
    (("pixel_values_videos",), (_Maker._videos,)),
    (("input_features", "attention_mask"), (
        lambda maker: maker._masked(_Maker._frames_last, -1, "attention_mask"),
        lambda maker: maker._masked(_Maker._frames, 1, "attention_mask"),
    )),
    (("input_features", "input_features_mask"), (
        lambda maker: maker._masked(_Maker._frames_last, -1, "input_features_mask"),
        lambda maker: maker._masked(_Maker._frames, 1, "input_features_mask"),
    )),
    (("input_features",), (_Maker._frames_last, _Maker._frames)),
    (("input_values", "attention_mask"), (lambda maker: maker._masked(_Maker._waves, 1, "attention_mask"),)),
    (("input_values",), (_Maker._waves, _Maker._spectrum, _Maker._waves_of_channels)),
    (("past_values",), (_Maker._series, _Maker._channels_of_series, _Maker._plain_series)),
    (("states", "actions", "timesteps"), (_Maker._trajectory,)),
    (("query_embeds",), (_Maker._queries,)),
)  # fmt: skip


def special_ids(config: PreTrainedConfig) -> Set[int]:
    """Token ids that have a meaning of their own: padding, beginning and end, placeholders of images and sounds."""
    return {
        number
        for part in _configs(config)
        for name, value in vars(part).items()
        if name.endswith(("_token_id", "_token_index", "_token_ids"))
        for number in _integers(value)
    }


def _configs(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A configuration and those inside it."""
    yield config
    for name in getattr(config, "sub_configs", ()) or ():
        part = getattr(config, name, None)
        if isinstance(part, PreTrainedConfig):
            yield from _configs(part)


def _text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    try:
        return config.get_text_config()
    except (ValueError, AttributeError):  # there are several
        return config


def _number(config: PreTrainedConfig, names: Iterable[str], text: bool = False) -> Optional[int]:
    """The first positive whole number under one of these names, in the configuration or one inside it."""
    for part in ([_text_config(config)] if text else []) + list(_configs(config)):
        for name in names:
            value = getattr(part, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _integers(value: Any) -> List[int]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [v for v in values if isinstance(v, int) and not isinstance(v, bool)]


def _to_the_right(rows: Tensor, lengths: Tensor) -> Tensor:
    return torch.stack([row.roll(rows.shape[1] - int(length)) for row, length in zip(rows, lengths)])


def _error_of(model: PreTrainedModel, inputs: Inputs) -> Optional[Exception]:
    """What the model says to these inputs; None if it runs."""
    try:
        with _aside(model):
            model(**inputs)
    except Exception as error:  # whatever the model raises
        return error
    return None


class _aside:
    """A trial run: in `eval()`, without gradients, random states and modes as before afterwards."""

    def __init__(self, model: nn.Module):
        self.model = model

    def __enter__(self) -> None:
        self.modes = [(part, part.training) for part in self.model.modules()]
        devices = {p.device for p in self.model.parameters() if p.device.type == "cuda"}
        self.contexts = [torch.random.fork_rng(devices=list(devices)), torch.no_grad()]
        for context in self.contexts:
            context.__enter__()
        self.model.eval()

    def __exit__(self, *error: Any) -> None:
        for part, training in self.modes:
            part.training = training
        for context in reversed(self.contexts):
            context.__exit__(None, None, None)
