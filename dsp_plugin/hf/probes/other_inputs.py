"""Random arguments of a Transformers model beside text, by kind: pixels, speech, series.

Notation: B examples (`size`), L tokens (`length`), T samples of sound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PretrainedConfig

from .config_numbers import configs, integers, number

Inputs = dict[str, Tensor]

_IMAGE_SIZES = ("image_size", "img_size", "input_size", "crop_size", "sample_size")
_CHANNELS = ("num_channels", "in_channels", "in_chans", "num_image_channels")
_FRAMES = ("num_frames", "frames_per_clip", "n_frames", "tubelet_size")
_MEL_BINS = tuple(
    "num_mel_bins input_feat_size feature_projection_input_dim input_feat_per_channel feature_size n_mels "
    "input_dim num_mel_features feature_dim input_channels num_hidden_features mel_bins "
    "input_feature_size".split()
)


@dataclass
class OtherInputs:
    """Draws what a model of this configuration may take beside text.

    Attributes:
        parameters: names that the model's `forward` takes.
        size, length, padding: see `random_inputs`.
        dtype: the model's dtype.
        generator: the source of every random number.
    """

    config: PretrainedConfig
    parameters: Container[str]
    size: int
    length: int
    padding: bool
    dtype: torch.dtype
    generator: torch.Generator

    def lengths(self, length: int) -> Tensor:
        """Return the length of each example: the first is the longest, the others get shorter."""
        shorter = torch.arange(self.size) * (1 + length // 4) % max(1, length - 1)
        return length - (shorter if self.padding else torch.zeros_like(shorter))

    # images

    def pixels(self) -> Inputs:
        """Draw images [B, channels, height, width]."""
        return {"pixel_values": self.normal(self.size, self.channels(), *self.image_size())}

    def clip(self, name: str = "pixel_values") -> Inputs:
        """Draw videos [B, frames, channels, height, width]."""
        frames = number(self.config, _FRAMES) or 2
        return {name: self.normal(self.size, frames, self.channels(), *self.image_size())}

    def patches(self, pixels: str, grid: str) -> Inputs:
        """Draw images in patches [B * 16, features], and their grids (frames, rows, columns) [B, 3]."""
        patch, frames = (number(self.config, (name,)) for name in ("patch_size", "temporal_patch_size"))
        features = self.channels() * (frames or 1) * patch**2
        return {pixels: self.normal(self.size * 16, features), grid: torch.tensor([[1, 4, 4]] * self.size)}

    def channels(self) -> int:
        """Return the number of channels of an image."""
        return number(self.config, _CHANNELS) or 3

    def image_size(self) -> tuple[int, int]:
        """Return height and width of an image."""
        for config in configs(self.config):
            for name in _IMAGE_SIZES:
                size = getattr(config, name, None)
                if isinstance(size, dict):
                    size = (size["height"], size["width"])
                sides = integers(size)
                if sides:
                    height, width = (sides * 2)[-2:]  # a single number is both
                    return height, width
        return 64, 64

    # speech and series

    def waves(self) -> Inputs:
        """Draw samples [B, T], enough for 12 frames."""
        found = (integers(getattr(config, "conv_stride", None)) for config in configs(self.config))
        strides = next((strides for strides in found if strides), [])
        return {"input_values": self.normal(self.size, 12 * math.prod(strides) + 80 if strides else 1920)}

    def waves_of_channels(self) -> Inputs:
        """Draw samples [B, channels, T], the same for every channel."""
        (waves,) = self.waves().values()
        channels = number(self.config, ("audio_channels",)) or 1
        waves = waves[:, None].expand(-1, channels, -1)  # [B, T] -> [B, channels, T]
        return {"input_values": waves.contiguous()}

    def spectrum(self) -> Inputs:
        """Draw a spectrum [B, frames, bins]."""
        bins, frames = number(self.config, _MEL_BINS), number(self.config, ("max_length", "spec_size")) or 16
        return {"input_values": self.normal(self.size, frames, bins)}

    def frames(self) -> Inputs:
        """Draw frames [B, frames, bins]."""
        return {"input_features": self.normal(self.size, 4 * self.length, number(self.config, _MEL_BINS))}

    def frames_last(self) -> Inputs:
        """Draw a spectrum [B, bins, frames], of twice as many frames as the encoder has positions."""
        frames = 2 * (number(self.config, ("max_source_positions",)) or 2 * self.length)
        return {"input_features": self.normal(self.size, number(self.config, _MEL_BINS), frames)}

    def masked(self, make: Callable[[OtherInputs], Inputs], dim: int, name: str) -> Inputs:
        """Add a mask [B, T] of this name to the one input that `make` draws, with time in dimension `dim`."""
        inputs = make(self)
        (values,) = inputs.values()
        length = values.shape[dim]
        mask = torch.arange(length) < self.lengths(length)[:, None]  # [T] < [B, 1] -> [B, T]
        return {**inputs, name: mask.long()}

    def series(self) -> Inputs:
        """Draw past and future values of the models of time series, [B, steps], with their features."""
        steps = self.config.context_length + max(self.config.lags_sequence)
        features = self.config.num_time_features
        ahead = self.config.prediction_length
        return {
            "past_values": self.normal(self.size, steps).abs() + 0.1,
            "past_time_features": self.normal(self.size, steps, features),
            "past_observed_mask": torch.ones(self.size, steps, dtype=self.dtype),
            "future_values": self.normal(self.size, ahead).abs() + 0.1,
            "future_time_features": self.normal(self.size, ahead, features),
        }

    def channels_of_series(self) -> Inputs:
        """Draw past values [B, steps, channels]."""
        steps, channels = self.config.context_length, self.config.num_input_channels
        return {"past_values": self.normal(self.size, steps, channels)}

    def single_series(self) -> Inputs:
        """Draw past values [B, steps] without features, and what else the model takes."""
        values = self.normal(self.size, number(self.config, ("context_length",)) or 32)
        given = {
            "past_values": values,
            "past_values_padding": torch.zeros_like(values).long(),
            "freq": torch.zeros(self.size, 1).long(),
        }
        return {name: value for name, value in given.items() if name in self.parameters}

    def trajectory(self) -> Inputs:
        """Draw states, actions and rewards [B, L, features] of a decision transformer."""
        states, actions = self.config.state_dim, self.config.act_dim
        return {
            "states": self.normal(self.size, self.length, states),
            "actions": self.normal(self.size, self.length, actions),
            "rewards": self.normal(self.size, self.length, 1),
            "returns_to_go": self.normal(self.size, self.length, 1),
            "timesteps": torch.arange(self.length).expand(self.size, -1),  # [L] -> [B, L]
            "attention_mask": torch.ones(self.size, self.length).long(),
        }

    def queries(self) -> Inputs:
        """Draw queries [B, 4, C], and the states [B, 6, C of the encoder] that they read."""
        wide = number(self.config, ("encoder_hidden_size",)) or self.width()
        return {
            "query_embeds": self.normal(self.size, 4, self.width()),
            "encoder_hidden_states": self.normal(self.size, 6, wide),
        }

    def width(self) -> int:
        """Return C, the width of the part that reads text."""
        return number(self.config, ("hidden_size", "d_model", "n_embd", "dim", "embed_dim"), text=True)

    def normal(self, *shape: int) -> Tensor:
        """Draw normal numbers in the model's dtype."""
        return torch.randn(*shape, generator=self.generator, dtype=torch.float32).to(self.dtype)


def _masked(mask: str, *frames: tuple[Callable[[OtherInputs], Inputs], int]) -> list[Callable]:
    return [partial(OtherInputs.masked, make=make, dim=dim, name=mask) for make, dim in frames]


_FRAMES_OF_SOUND = ((OtherInputs.frames_last, -1), (OtherInputs.frames, 1))
_PATCHES = (("pixel_values", "image_grid_thw"), ("pixel_values", "grid_thw"), ("hidden_states", "grid_thw"))


# arguments that a model must have -> makers that are tried in turn
OTHER_KINDS: Sequence[tuple[tuple[str, ...], Sequence[Callable[[OtherInputs], Inputs]]]] = (
    *((names, (partial(OtherInputs.patches, pixels=names[0], grid=names[1]),)) for names in _PATCHES),
    (("pixel_values",), (OtherInputs.pixels, OtherInputs.clip)),
    (("pixel_values_videos",), (partial(OtherInputs.clip, name="pixel_values_videos"),)),
    (("input_features", "attention_mask"), _masked("attention_mask", *_FRAMES_OF_SOUND)),
    (("input_features", "input_features_mask"), _masked("input_features_mask", *_FRAMES_OF_SOUND)),
    (("input_features",), (OtherInputs.frames_last, OtherInputs.frames)),
    (("input_values", "attention_mask"), _masked("attention_mask", (OtherInputs.waves, 1))),
    (("input_values",), (OtherInputs.waves, OtherInputs.spectrum, OtherInputs.waves_of_channels)),
    (("past_values",), (OtherInputs.series, OtherInputs.channels_of_series, OtherInputs.single_series)),
    (("states", "actions", "timesteps"), (OtherInputs.trajectory,)),
    (("query_embeds",), (OtherInputs.queries,)),
)
