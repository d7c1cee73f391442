"""Likely arguments of a Transformers model by kind: text, pixels, speech, series; random, of the sizes in its
configuration.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .config_numbers import configs, integers, number, special_ids, text_config
from .model_runs import aside

Inputs = dict[str, Tensor]

_TEXT = ("input_ids", "attention_mask", "token_type_ids", "bbox", "decoder_input_ids")
_IMAGE_SIZES = ("image_size", "img_size", "input_size", "crop_size", "sample_size")
_CHANNELS = ("num_channels", "in_channels", "in_chans", "num_image_channels")
_FRAMES = ("num_frames", "frames_per_clip", "n_frames", "tubelet_size")
_MEL_BINS = (
    "num_mel_bins",
    "input_feat_size",
    "feature_projection_input_dim",
    "input_feat_per_channel",
    "feature_size",
    "n_mels",
    "input_dim",
    "num_mel_features",
    "feature_dim",
    "input_channels",
    "num_hidden_features",
    "mel_bins",
    "input_feature_size",
)


class InputMaker:
    """Sets of arguments for one model.

    Args:
        model, size, length, seed, padding: see `random_inputs`.
    """

    def __init__(self, model: PreTrainedModel, size: int, length: int, seed: int, padding: bool):
        self.model, self.size, self.seed, self.padding = model, size, seed, padding
        self.config = model.config
        self.parameters = inspect.signature(model.forward).parameters
        weight = next(iter(model.parameters()), torch.zeros(()))
        self.device, self.dtype = (
            weight.device,
            next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32),
        )
        longest = number(
            self.config, ("max_position_embeddings", "n_positions", "max_target_positions"), text=True
        )
        self.length = max(1, min(length, longest - 2 if longest and longest > 2 else length))
        self.generator = torch.Generator()

    def candidates(self, text_only: bool = False) -> Iterator[Inputs]:
        """Yield sets of arguments, the likeliest first, each from the same random numbers."""
        for build in self._builders(text_only):
            self.generator.manual_seed(self.seed)
            try:
                inputs = build()
            except (
                AttributeError,
                TypeError,
                ValueError,
                IndexError,
                KeyError,
                RuntimeError,
                NotImplementedError,
            ):
                continue  # the configuration lacks what this set is made from
            yield {name: value.to(self.device) for name, value in inputs.items() if value is not None}

    def _builders(self, text_only: bool) -> Iterator[Callable[[], Inputs]]:
        takes = self.parameters.keys()
        first, text = self._first_argument(), "input_ids" in takes
        others: list[Callable[[], Inputs]] = []
        for names, makers in _OTHER_KINDS:
            if all(name in takes for name in names):
                others += [lambda make=make: make(self) for make in makers]
        if text and not text_only:
            yield from (
                lambda other=other: self._with_placeholders(other())
                for other in others
                if self._placeholder()
            )
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
            yield from (
                lambda one=one, two=two: {**self._text(), **one(), **two()}
                for one in others
                for two in others
            )
            yield self._text
            yield lambda: {name: value for name, value in self._text().items() if name == "input_ids"}
        if "inputs_embeds" in takes:
            yield lambda: {"inputs_embeds": self._normal(self.size, self.length, self._width())}

    def _first_argument(self) -> str:
        """Return the name of the argument that the model puts first: its class says so, or its signature."""
        name = self.model.main_input_name
        return name if isinstance(name, str) and name in self.parameters else next(iter(self.parameters), "")

    # text

    def _text(self) -> Inputs:
        lengths = self._lengths(self.length)
        kept = torch.arange(self.length) < lengths[:, None]
        ids = self._ids(self.length)
        end = integers(getattr(text_config(self.config), "eos_token_id", None))
        if end and end[0] < self._vocabulary() and self.length > 1:
            ids[torch.arange(self.size), lengths - 1] = end[0]
        pad = integers(getattr(text_config(self.config), "pad_token_id", None))
        ids = torch.where(kept, ids, pad[0] if pad and 0 <= pad[0] < self._vocabulary() else 0)
        if self._goes_on_at_the_right():
            ids, kept = (_to_the_right(part, lengths) for part in (ids, kept))
        inputs: dict[str, Tensor | None] = {"input_ids": ids, "attention_mask": kept.long()}
        types = number(self.config, ("type_vocab_size",), text=True) or 0
        inputs["token_type_ids"] = (
            (torch.arange(self.length) * 2 // self.length).expand(self.size, -1) if types > 1 else None
        )
        inputs["bbox"] = self._boxes()
        inputs["decoder_input_ids"] = (
            self._ids(self.length) if getattr(self.config, "is_encoder_decoder", False) else None
        )
        return {name: inputs[name] for name in _TEXT if name in self.parameters and inputs[name] is not None}

    def _decoder(self) -> Inputs:
        return {"decoder_input_ids": self._ids(self.length)} if "decoder_input_ids" in self.parameters else {}

    def _ids(self, length: int) -> Tensor:
        special, vocabulary = special_ids(self.config), self._vocabulary()
        plain = [token for token in range(vocabulary) if token not in special] or list(range(vocabulary))
        return torch.tensor(plain)[torch.randint(len(plain), (self.size, length), generator=self.generator)]

    def _vocabulary(self) -> int:
        """Return the number of tokens there are embeddings for."""
        sizes = [number(self.config, ("vocab_size", "text_vocab_size", "decoder_vocab_size"), text=True)]
        try:
            table = self.model.get_input_embeddings()
        except (NotImplementedError, AttributeError):
            table = None
        sizes += [table.num_embeddings] if isinstance(table, nn.Embedding) else []
        return min(s for s in sizes if s)

    def _lengths(self, length: int) -> Tensor:
        """Return the length of each example: the first is the longest, the others get shorter."""
        return length - (
            torch.arange(self.size) * (1 + length // 4) % max(1, length - 1)
            if self.padding
            else torch.zeros(self.size).long()
        )

    def _goes_on_at_the_right(self) -> bool:
        return not getattr(self.config, "is_encoder_decoder", False) and self.model.can_generate()

    def _boxes(self) -> Tensor:
        """Draw boxes [B, L, 4]: left, top, right, bottom."""
        largest = min(1000, (number(self.config, ("max_2d_position_embeddings",)) or 1001) - 1)
        low, high = (
            torch.randint(part, (self.size, self.length, 2), generator=self.generator)
            for part in (largest // 2,) * 2
        )
        return torch.cat([low, low + high], dim=-1)

    # images

    def _placeholder(self) -> int | None:
        """Return the id of the token in whose place the features of an image go."""
        return next(
            (
                i
                for i in (getattr(self.config, n, None) for n in ("image_token_id", "image_token_index"))
                if isinstance(i, int)
            ),
            None,
        )

    def _with_placeholders(self, other: Inputs) -> Inputs:
        """Make text with as many placeholders in front as the image of `other` has features."""
        if "pixel_values" not in other or not hasattr(self.model, "get_image_features"):
            raise ValueError("no image")
        moved = {name: value.to(self.device) for name, value in other.items()}
        with aside(self.model):
            features = self.model.get_image_features(**moved)
        found = getattr(features, "pooler_output", features)
        count = (
            found.shape[:-1].numel()
            if isinstance(found, Tensor)
            else sum(part.shape[:-1].numel() for part in found)
        )
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
        frames = number(self.config, _FRAMES) or 2
        return {name: self._normal(self.size, frames, self._channels(), *self._image_size())}

    def _videos(self) -> Inputs:
        return self._clip("pixel_values_videos")

    def _patches(self) -> tuple[Tensor, Tensor]:
        """Draw images cut into patches [images * 16, features], and their grids (frames, rows, columns)
        [images, 3].
        """
        patch, frames = (number(self.config, (name,)) for name in ("patch_size", "temporal_patch_size"))
        features = self._channels() * (frames or 1) * patch**2
        return self._normal(self.size * 16, features), torch.tensor([[1, 4, 4]] * self.size)

    def _grid(self) -> Inputs:
        return dict(zip(("hidden_states", "grid_thw"), self._patches()))

    def _image_grid(self) -> Inputs:
        return dict(zip(("pixel_values", "image_grid_thw"), self._patches()))

    def _pixel_grid(self) -> Inputs:
        return dict(zip(("pixel_values", "grid_thw"), self._patches()))

    def _channels(self) -> int:
        return number(self.config, _CHANNELS) or 3

    def _image_size(self) -> tuple[int, int]:
        for config in configs(self.config):
            for name in _IMAGE_SIZES:
                size = getattr(config, name, None)
                if isinstance(size, dict):
                    size = (size["height"], size["width"])
                sides = integers(size)
                if sides:
                    return sides[-2:] if len(sides) > 1 else (sides[0], sides[0])  # type: ignore[return-value]
        return 64, 64

    # speech and series

    def _waves(self) -> Inputs:
        """Draw samples [B, T], enough for 12 frames."""
        strides = next(
            (s for c in configs(self.config) for s in [integers(getattr(c, "conv_stride", None))] if s), []
        )
        return {"input_values": self._normal(self.size, 12 * math.prod(strides) + 80 if strides else 1920)}

    def _waves_of_channels(self) -> Inputs:
        (waves,) = self._waves().values()
        return {
            "input_values": waves[:, None]
            .expand(-1, number(self.config, ("audio_channels",)) or 1, -1)
            .contiguous()
        }

    def _spectrum(self) -> Inputs:
        """Draw a spectrum [B, frames, bins]."""
        bins, frames = number(self.config, _MEL_BINS), number(self.config, ("max_length", "spec_size")) or 16
        return {"input_values": self._normal(self.size, frames, bins)}

    def _frames(self) -> Inputs:
        """Draw frames [B, frames, bins]."""
        return {"input_features": self._normal(self.size, 4 * self.length, number(self.config, _MEL_BINS))}

    def _frames_last(self) -> Inputs:
        """Draw a spectrum [B, bins, frames], of twice as many frames as the encoder has positions."""
        frames = 2 * (number(self.config, ("max_source_positions",)) or 2 * self.length)
        return {"input_features": self._normal(self.size, number(self.config, _MEL_BINS), frames)}

    def _masked(self, make: Callable[[InputMaker], Inputs], dim: int, name: str) -> Inputs:
        inputs = make(self)
        (values,) = inputs.values()
        length = values.shape[dim]
        mask = torch.arange(length) < self._lengths(length)[:, None]
        return {**inputs, name: mask.long()}

    def _series(self) -> Inputs:
        """Draw past and future values of the models of time series, [B, steps], with their features."""
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
        return {
            "past_values": self._normal(self.size, self.config.context_length, self.config.num_input_channels)
        }

    def _plain_series(self) -> Inputs:
        values = self._normal(self.size, number(self.config, ("context_length",)) or 32)
        given = {
            "past_values": values,
            "past_values_padding": torch.zeros_like(values).long(),
            "freq": torch.zeros(self.size, 1).long(),
        }
        return {name: value for name, value in given.items() if name in self.parameters}

    def _trajectory(self) -> Inputs:
        states, actions = self.config.state_dim, self.config.act_dim
        return {
            "states": self._normal(self.size, self.length, states),
            "actions": self._normal(self.size, self.length, actions),
            "rewards": self._normal(self.size, self.length, 1),
            "returns_to_go": self._normal(self.size, self.length, 1),
            "timesteps": torch.arange(self.length).expand(self.size, -1),
            "attention_mask": torch.ones(self.size, self.length).long(),
        }

    def _queries(self) -> Inputs:
        wide = number(self.config, ("encoder_hidden_size",)) or self._width()
        return {
            "query_embeds": self._normal(self.size, 4, self._width()),
            "encoder_hidden_states": self._normal(self.size, 6, wide),
        }

    def _width(self) -> int:
        return number(self.config, ("hidden_size", "d_model", "n_embd", "dim", "embed_dim"), text=True)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float32).to(self.dtype)


# arguments that a model must have, and what is tried for them in turn
_OTHER_KINDS: Sequence[tuple[tuple[str, ...], Sequence[Callable[[InputMaker], Inputs]]]] = (
    (("pixel_values", "image_grid_thw"), (InputMaker._image_grid,)),
    (("pixel_values", "grid_thw"), (InputMaker._pixel_grid,)),
    (("hidden_states", "grid_thw"), (InputMaker._grid,)),
    (("pixel_values",), (InputMaker._pixels, InputMaker._clip)),
    (("pixel_values_videos",), (InputMaker._videos,)),
    (
        ("input_features", "attention_mask"),
        (
            lambda maker: maker._masked(InputMaker._frames_last, -1, "attention_mask"),
            lambda maker: maker._masked(InputMaker._frames, 1, "attention_mask"),
        ),
    ),
    (
        ("input_features", "input_features_mask"),
        (
            lambda maker: maker._masked(InputMaker._frames_last, -1, "input_features_mask"),
            lambda maker: maker._masked(InputMaker._frames, 1, "input_features_mask"),
        ),
    ),
    (("input_features",), (InputMaker._frames_last, InputMaker._frames)),
    (
        ("input_values", "attention_mask"),
        (lambda maker: maker._masked(InputMaker._waves, 1, "attention_mask"),),
    ),
    (("input_values",), (InputMaker._waves, InputMaker._spectrum, InputMaker._waves_of_channels)),
    (("past_values",), (InputMaker._series, InputMaker._channels_of_series, InputMaker._plain_series)),
    (("states", "actions", "timesteps"), (InputMaker._trajectory,)),
    (("query_embeds",), (InputMaker._queries,)),
)


def _to_the_right(rows: Tensor, lengths: Tensor) -> Tensor:
    return torch.stack([row.roll(rows.shape[1] - int(length)) for row, length in zip(rows, lengths)])
