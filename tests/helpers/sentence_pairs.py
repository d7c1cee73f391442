"""A sentence-pair model as its user writes it: one encoder called twice, mean pooling, a head of its own;
and a task for it.
"""

from __future__ import annotations

import dsp_plugin.hf  # noqa: F401  (first: it hides a torchaudio that cannot be loaded)  isort: skip

import torch
from hf_models import BERT_SIZES
from torch import Tensor, nn
from transformers import BertConfig, BertModel

VOCABULARY, LENGTH = 40, 8
MARK = 3  # the token that makes a sentence one of its kind


class SentencePair(nn.Module):
    """Whether two sentences are of one kind. Not a Transformers model: no configuration, no
    save_pretrained.
    """

    def __init__(self) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=VOCABULARY,
            **{**BERT_SIZES, "intermediate_size": 64},
            max_position_embeddings=16,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.1,
        )
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.head = nn.Sequential(nn.Linear(96, 64), nn.Tanh(), nn.Linear(64, 2))

    def pooled(self, ids: Tensor) -> Tensor:
        """ids [B, L] -> [B, C]: the mean over the sentence."""
        return self.encoder(ids).last_hidden_state.mean(1)

    def forward(self, first: Tensor, second: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        one, two = self.pooled(first), self.pooled(second)
        logits = self.head(torch.cat([one, two, one * two], dim=-1))
        found = {"logits": logits}
        if labels is not None:
            found["loss"] = nn.functional.cross_entropy(logits, labels)
        return found


def pairs(count: int, seed: int) -> list[dict[str, Tensor]]:
    """Half of the sentences hold the mark somewhere; the label says whether both of a pair do or neither
    does.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(MARK + 1, VOCABULARY, (count, 2, LENGTH), generator=generator)
    kinds = torch.randint(0, 2, (count, 2, 1), generator=generator)
    places = torch.randint(0, LENGTH, (count, 2, 1), generator=generator)
    ids.scatter_(2, places, torch.where(kinds == 1, MARK, ids.gather(2, places)))
    labels = (kinds[:, 0] == kinds[:, 1]).long().squeeze(-1)
    return [{"first": row[0], "second": row[1], "labels": label} for row, label in zip(ids, labels)]


@torch.no_grad()
def accuracy(model: nn.Module, data: list[dict[str, Tensor]]) -> float:
    batch = {name: torch.stack([row[name] for row in data]) for name in data[0]}
    return float((model(**batch)["logits"].argmax(-1) == batch["labels"]).float().mean())
