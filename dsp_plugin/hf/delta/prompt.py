"""The soft prompt in a model: `prompt_ids` beside the batch say where its vectors stand.

A hook before the encoder turns input_ids into embeddings with the prompt's vectors in their places, so that
everything behind it (positions, LayerNorm, recomputation, compiled graphs) is the model's own.
"""

from __future__ import annotations

import inspect
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from ...delta.modules import SoftPrompt, prompt_from_words
from .families import Places, encoder_of

NAME = "prompt_ids"
_ATTRIBUTE = "delta_prompt"


class PromptPart:
    """The vectors of a prompt, beside the model's word embeddings."""

    method = "prompt"

    def __init__(self, prompt: SoftPrompt, place: str, settings: dict[str, Any]):
        self.prompt, self.place, self.settings = prompt, place, settings

    @classmethod
    def begin(cls, model: nn.Module, places: Places, prompt_num: int, seed: int) -> PromptPart:
        words = model.get_submodule(places.embeddings).word_embeddings.weight
        prompt = prompt_from_words(words, prompt_num, seed)
        return cls(prompt, places.embeddings, {"prompt_num": prompt_num, "seed": seed})

    @classmethod
    def of_file(cls, model: nn.Module, places: Places, settings: dict, tensors: dict) -> PromptPart:
        words = model.get_submodule(places.embeddings).word_embeddings.weight
        vectors = tensors["vectors"]
        if vectors.shape[1] != words.shape[1]:
            raise ValueError(f"the prompt is {vectors.shape[1]} wide, the model's words are {words.shape[1]}")
        return cls(SoftPrompt(vectors.to(words.device)), places.embeddings, dict(settings))

    def put(self, model: nn.Module) -> None:
        embeddings = model.get_submodule(self.place)
        self.prompt.to(embeddings.word_embeddings.weight.device)
        self.prompt.train(model.training)
        setattr(embeddings, _ATTRIBUTE, self.prompt)
        accept_prompt_ids(model, self.place)

    def take(self, model: nn.Module) -> None:
        delattr(model.get_submodule(self.place), _ATTRIBUTE)

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return [self.prompt.vectors]

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        return {"vectors": self.prompt.vectors.detach()}


def accept_prompt_ids(model: nn.Module, place: str) -> None:
    """Let a model and its encoder take the keyword `prompt_ids`, once. Without a prompt it is ignored."""
    path, encoder = encoder_of(model)
    hooks = encoder._forward_pre_hooks.values()
    if not any(getattr(hook, "func", None) is _put_prompt for hook in hooks):
        inside = place[len(path) + 1 :] if path else place
        encoder.register_forward_pre_hook(partial(_put_prompt, inside), with_kwargs=True)
    for module in {id(model): model, id(encoder): encoder}.values():
        if "forward" not in vars(module):
            vars(module)["forward"] = MethodType(_forward_with(type(module)), module)


def _forward_with(kind: type) -> Any:
    """Make a forward that shows `prompt_ids` among its arguments, as the Trainer looks for them there."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return kind.forward(self, *args, **kwargs)

    stock = inspect.signature(kind.forward)
    ours = inspect.Parameter(NAME, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Tensor | None)
    parameters = list(stock.parameters.values())
    variadic = [one for one in parameters if one.kind is inspect.Parameter.VAR_KEYWORD]
    others = [one for one in parameters if one.kind is not inspect.Parameter.VAR_KEYWORD]
    forward.__signature__ = stock.replace(parameters=[*others, ours, *variadic])
    return forward


def _put_prompt(place: str, encoder: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Replace input_ids by embeddings with the prompt in them.

    Raises:
        ValueError: a prompt is active, and the batch has no prompt_ids or no input_ids.
    """
    kwargs = dict(kwargs)
    prompt_ids = kwargs.pop(NAME, None)
    embeddings = encoder.get_submodule(place)
    prompt = getattr(embeddings, _ATTRIBUTE, None)
    if prompt is None:
        return args, kwargs
    if prompt_ids is None:
        raise ValueError(
            "the method prompt is active and the batch has no prompt_ids, so that its vectors would stand "
            'nowhere: give them, or disable(model, "prompt")'
        )
    if args:
        kwargs["input_ids"], args = args[0], args[1:]
        if args:
            raise ValueError("with a prompt, give all but input_ids by keyword")
    input_ids = kwargs.pop("input_ids", None)
    if input_ids is None or kwargs.get("inputs_embeds") is not None:
        raise ValueError("with a prompt, a batch has input_ids and no inputs_embeds")
    if kwargs.get("position_ids") is None:
        positions = _positions(embeddings, input_ids, prompt_ids)
        if positions is not None:
            kwargs["position_ids"] = positions
    kwargs["inputs_embeds"] = prompt(embeddings.word_embeddings(input_ids), prompt_ids)
    return args, kwargs


def _positions(embeddings: nn.Module, input_ids: Tensor, prompt_ids: Tensor) -> Tensor | None:
    """Return RoBERTa's positions [B, L], which count the words that are no padding; None for BERT's.

    A place of the prompt counts, whatever id stands there.
    """
    if not hasattr(embeddings, "create_position_ids_from_input_ids"):
        return None
    padding = embeddings.padding_idx
    seen = (input_ids.ne(padding) | prompt_ids.gt(0)).to(torch.int64)
    return seen.cumsum(1) * seen + padding  # [B, L]
