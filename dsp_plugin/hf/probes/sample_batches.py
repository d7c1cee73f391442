"""Batches for a comparison of two models: real text where there is a tokenizer for it, else random inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .comparison import random_batches, takes_text

# of different lengths, so that batches are padded
SENTENCES = (
    "Attention heads can be removed without changing the translation.",
    "The committee will meet again on Thursday to discuss the results of the second trial and to vote on the "
    "budget.",
    "No.",
    "Two young men in blue shirts are repairing a bicycle in front of a closed shop.",
    "What is the capital of the country in which the river has its source?",
    "It rained all night, and in the morning the road to the village was under water.",
    "She did not believe a word of it.",
    "Prices rose by 3.5 % in May, the fastest rate since 2011, although wages hardly changed.",
)


def sample_batches(model: PreTrainedModel) -> list[dict[str, Tensor]]:
    """Make random inputs in batches of 3 padded sequences, of 1 sequence, and of 2 sequences of one token.

    Raises:
        ValueError: see `random_inputs`.
    """
    return [next(random_batches(model, 1, size, length)) for size, length in ((3, 12), (1, 5), (2, 1))]


def text_batches(
    model: PreTrainedModel, tokenizer: Any, sentences: Sequence[str] = SENTENCES, size: int = 4
) -> list[dict[str, Tensor]]:
    """Make inputs of a model from sentences, `size` a batch, cut to what the model takes.

    A decoder behind an encoder is given the tokens of the same sentences.

    Args:
        tokenizer: the model's; without a padding token every sentence is a batch of its own.

    Returns:
        the model's keyword arguments, input_ids [B, L] among them.

    Raises:
        ValueError: there is no sentence, or the model does not take text alone.
    """
    if not takes_text(model):
        raise ValueError(
            f"{type(model).__name__} does not take text alone, so that sentences are no inputs for it"
        )
    sentences = [sentence for sentence in sentences if sentence.strip()]
    if not sentences:
        raise ValueError("there is no sentence to compare the models on")
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512), 512)
    padding = tokenizer.pad_token is not None
    size = size if padding else 1
    batches = []
    for start in range(0, len(sentences), size):
        part = list(sentences[start : start + size])
        encoded = tokenizer(part, padding=padding, truncation=True, max_length=longest, return_tensors="pt")
        names = ("input_ids", "attention_mask", "token_type_ids")
        batch = {name: encoded[name] for name in names if name in encoded}
        if model.config.is_encoder_decoder:
            batch["decoder_input_ids"] = _shifted(batch["input_ids"], model)
            batch["decoder_attention_mask"] = _shifted(batch["attention_mask"], model, 1)
        batches.append(batch)
    return batches


def _shifted(ids: Tensor, model: PreTrainedModel, first: int | None = None) -> Tensor:
    """Shift ids [B, L] one to the right, behind the token that a decoder starts with (or `first`)."""
    start = model.config.decoder_start_token_id if first is None else first
    # [B, 1] and [B, L - 1] -> [B, L]
    return torch.cat([torch.full_like(ids[:, :1], start if start is not None else 0), ids[:, :-1]], dim=1)
