"""Likely random arguments of a Transformers model: text, other inputs (`other_inputs`), and both together."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .config_numbers import integers, number, special_ids, text_config
from .model_runs import trial_run
from .other_inputs import OTHER_KINDS, Inputs, OtherInputs

_TEXT = ("input_ids", "attention_mask", "token_type_ids", "bbox", "decoder_input_ids")


class InputMaker:
    """Sets of arguments for one model.

    Args:
        model, size, length, seed, padding: see `random_inputs`.
    """

    def __init__(self, model: PreTrainedModel, size: int, length: int, seed: int, padding: bool):
        self.model, self.size, self.seed = model, size, seed
        self.config = model.config
        self.parameters = inspect.signature(model.forward).parameters
        self.device = next(iter(model.parameters()), torch.zeros(())).device
        self.dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        names = ("max_position_embeddings", "n_positions", "max_target_positions")
        longest = number(self.config, names, text=True)
        self.length = max(1, min(length, longest - 2 if longest and longest > 2 else length))
        self.generator = torch.Generator()
        more = (size, self.length, padding, self.dtype, self.generator)
        self.other = OtherInputs(self.config, self.parameters, *more)

    def candidates(self, text_only: bool = False) -> Iterator[Inputs]:
        """Yield sets of arguments, the likeliest first, each from the same random numbers."""
        for build in self._builders(text_only):
            self.generator.manual_seed(self.seed)
            try:
                inputs = build()
            except (AttributeError, TypeError, ValueError, LookupError, RuntimeError):
                continue  # the configuration lacks what this set is made from
            yield {name: value.to(self.device) for name, value in inputs.items() if value is not None}

    def _builders(self, text_only: bool) -> Iterator[Callable[[], Inputs]]:
        takes = self.parameters.keys()
        first, text = self._first_argument(), "input_ids" in takes
        others: list[Callable[[], Inputs]] = []
        for names, makers in OTHER_KINDS:
            if all(name in takes for name in names):
                others += [lambda make=make: make(self.other) for make in makers]
        if text and not text_only and self._placeholder():
            yield from (lambda other=other: self._with_placeholders(other()) for other in others)
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
            for one, two in itertools.product(others, others):
                yield lambda one=one, two=two: {**self._text(), **one(), **two()}
            yield self._text
            yield lambda: {name: value for name, value in self._text().items() if name == "input_ids"}
        if "inputs_embeds" in takes:
            yield lambda: {"inputs_embeds": self.other.normal(self.size, self.length, self.other.width())}

    def _first_argument(self) -> str:
        """Return the name of the argument that the model puts first: its class says so, or its signature."""
        name = self.model.main_input_name
        return name if isinstance(name, str) and name in self.parameters else next(iter(self.parameters), "")

    # text

    def _text(self) -> Inputs:
        lengths = self.other.lengths(self.length)
        attended = torch.arange(self.length) < lengths[:, None]  # [L] < [B, 1] -> [B, L]
        ids = self._ids(self.length)
        end = integers(getattr(text_config(self.config), "eos_token_id", None))
        if end and end[0] < self._vocabulary() and self.length > 1:
            ids[torch.arange(self.size), lengths - 1] = end[0]
        pad = integers(getattr(text_config(self.config), "pad_token_id", None))
        ids = torch.where(attended, ids, pad[0] if pad and 0 <= pad[0] < self._vocabulary() else 0)
        has_encoder = getattr(self.config, "is_encoder_decoder", False)
        if not has_encoder and self.model.can_generate():  # it goes on at the right end
            ids, attended = (_to_the_right(part, lengths) for part in (ids, attended))
        inputs = {"input_ids": ids, "attention_mask": attended.long()}
        if (number(self.config, ("type_vocab_size",), text=True) or 0) > 1:
            halves = torch.arange(self.length) * 2 // self.length
            inputs["token_type_ids"] = halves.expand(self.size, -1)  # [L] -> [B, L]
        inputs["bbox"] = self._boxes()
        if has_encoder:
            inputs["decoder_input_ids"] = self._ids(self.length)
        return {name: inputs[name] for name in _TEXT if name in self.parameters and name in inputs}

    def _decoder(self) -> Inputs:
        return {"decoder_input_ids": self._ids(self.length)} if "decoder_input_ids" in self.parameters else {}

    def _ids(self, length: int) -> Tensor:
        special, vocabulary = special_ids(self.config), self._vocabulary()
        ordinary = [token for token in range(vocabulary) if token not in special] or list(range(vocabulary))
        drawn = torch.randint(len(ordinary), (self.size, length), generator=self.generator)
        return torch.tensor(ordinary)[drawn]  # [B, L]

    def _vocabulary(self) -> int:
        """Return the number of tokens there are embeddings for."""
        sizes = [number(self.config, ("vocab_size", "text_vocab_size", "decoder_vocab_size"), text=True)]
        try:
            table = self.model.get_input_embeddings()
        except (NotImplementedError, AttributeError):
            table = None
        sizes += [table.num_embeddings] if isinstance(table, nn.Embedding) else []
        return min(s for s in sizes if s)

    def _boxes(self) -> Tensor:
        """Draw boxes [B, L, 4]: left, top, right, bottom."""
        largest = min(1000, (number(self.config, ("max_2d_position_embeddings",)) or 1001) - 1)
        shape = (self.size, self.length, 2)
        low, size = (torch.randint(largest // 2, shape, generator=self.generator) for _ in range(2))
        return torch.cat([low, low + size], dim=-1)  # two [B, L, 2] -> [B, L, 4]

    # images

    def _placeholder(self) -> int | None:
        """Return the id of the token in whose place the features of an image go."""
        found = (getattr(self.config, name, None) for name in ("image_token_id", "image_token_index"))
        return next((token for token in found if isinstance(token, int)), None)

    def _with_placeholders(self, other: Inputs) -> Inputs:
        """Make text with as many placeholders in front as the image of `other` has features."""
        if "pixel_values" not in other or not hasattr(self.model, "get_image_features"):
            raise ValueError("no image")
        moved = {name: value.to(self.device) for name, value in other.items()}
        with trial_run(self.model):
            features = self.model.get_image_features(**moved)
        found = getattr(features, "pooler_output", features)
        parts = [found] if isinstance(found, Tensor) else found
        count = sum(part.shape[:-1].numel() for part in parts)
        if count % self.size:
            raise ValueError("the images differ in their features")
        images = torch.full((self.size, count // self.size), self._placeholder())
        ids, attended = self._ids(self.length), torch.ones(self.size, self.length + images.shape[1]).long()
        text = {"input_ids": torch.cat([images, ids], 1), "attention_mask": attended}
        text["mm_token_type_ids"] = text["token_type_ids"] = (text["input_ids"] == self._placeholder()).long()
        return {**{name: value for name, value in text.items() if name in self.parameters}, **other}


def _to_the_right(rows: Tensor, lengths: Tensor) -> Tensor:
    """Roll each row of [B, L] so that its padding is on the left."""
    return torch.stack([row.roll(rows.shape[1] - int(length)) for row, length in zip(rows, lengths)])
