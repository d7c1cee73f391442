"""Learning and telling masked words: logits at the masked places alone, a loss, and a share told right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, TrainingArguments

from ..data.tokenised import PackedDataset
from ..trainer.in_order import InOrderTrainer
from .prompting import word_logits

BATCH = 2000  # sentences that are tokenised at once
_NO_LOSS = -100


class MaskedWordTrainer(InOrderTrainer):
    """A Trainer whose model works out words at the masked places alone."""

    def compute_loss(self, model: Any, inputs: dict, return_outputs: bool = False, **kwargs: Any) -> Any:
        labels = inputs.pop("labels")
        places = labels != _NO_LOSS
        logits = words_at(model, places, **inputs)
        return functional.cross_entropy(logits.float(), labels[places])


def tokenised(texts: Sequence[str], tokenizer: Any, length: int) -> PackedDataset:
    """Tokenise sentences, cut at a length, with the places of their special tokens."""
    data = PackedDataset()
    for start in range(0, len(texts), BATCH):
        found = tokenizer(
            list(texts[start : start + BATCH]),
            truncation=True,
            max_length=length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_special_tokens_mask=True,
        )
        data.extend({name: found[name] for name in ("input_ids", "special_tokens_mask")})
    return data


def words_at(model: PreTrainedModel, places: Tensor, **inputs: Tensor) -> Tensor:
    """Return the logits of all words [N, V] at the N places [B, L], bool, that are true."""
    hidden = model.base_model(**inputs)[0]  # [B, L, D]
    return word_logits(model, hidden[places])  # [N, D] -> [N, V]


@torch.no_grad()
def accuracy(model: PreTrainedModel, data: PackedDataset, collate: Any, args: TrainingArguments) -> float:
    """Return the share of masked words that are told right, in percent: the same masks at every call."""
    was_training = model.training
    model.eval()
    order = data.lengths().argsort(kind="stable").tolist()
    right = masked = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        for start in range(0, len(order), args.eval_batch_size):
            rows = [data[row] for row in order[start : start + args.eval_batch_size]]
            batch = {name: tensor.to(model.device) for name, tensor in collate(rows).items()}
            labels = batch.pop("labels")
            places = labels != _NO_LOSS
            if places.any():
                told = words_at(model, places, **batch).argmax(-1)
                right += int((told == labels[places]).sum())
                masked += int(places.sum())
    model.train(was_training)
    if not masked:
        raise ValueError("no word of the held-out sentences was masked: hold out more of them")
    return 100 * right / masked
